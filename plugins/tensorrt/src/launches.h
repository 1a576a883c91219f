// A layer's workspace, and its two launches.
#pragma once

#include <cstddef>

#include "tensors.h"

namespace mpq::trt {

// Enough for an X of this shape and for every smaller one: activations grow with the shape; what
// thread blocks share of an output does not, since smaller products are shared by more of them.
// Throws Refused: the kernels do not take the layer with such an X.
size_t workspace_bytes(const PluginLayer& layer, const Shape& x, const Tensor& format);

// Throws Refused unless the layer takes inputs as large as these, of which X comes in a format:
// whatever a builder asks for later has an answer.
void check_largest(const PluginLayer& layer, const Shape* inputs, int32_t count,
                   const Tensor& format);

// Addresses are the device's.
struct Launches {
  const void* const* inputs;  // in the order of the node's
  bool residual;              // whether the last input is one
  void* y;
  void* workspace;  // of what workspace_bytes said of this X, or of a larger one
  MpqStream stream;
};

// What went wrong, in words; nothing was allocated for them.
struct Failure {
  int status = MPQ_OK;  // of mpq_kernels.h
  char text[512] = {};
};

// Both launches. It allocates nothing, waits for nothing and throws nothing; a CUDA graph can
// capture it.
bool enqueue(const PluginLayer& layer, const Shape& x, const Tensor& format,
             const Launches& launches, Failure& failure) noexcept;

}  // namespace mpq::trt
