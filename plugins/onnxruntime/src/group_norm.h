// Group normalisation, with or without SiLU, in floating point.
#pragma once

#include <cstdint>

#include "parallel.h"

namespace mpq {

struct Kernels;

struct GroupNorm {
  int64_t groups;
  float epsilon;
  bool silu;
  const float* scale;  // per channel
  const float* bias;
};

// x and y float32 [batch, channels, pixels]; groups divide channels.
void group_norm(const GroupNorm& norm, const Kernels& kernels, const float* x, int64_t batch,
                int64_t channels, int64_t pixels, float* y, Parallel& parallel);

}  // namespace mpq
