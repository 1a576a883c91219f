// What a plugin asks of its tensors: shapes, types, formats.
#pragma once

#include "layer.h"

namespace mpq::trt {

// X, step_index, words, tile_begins, steps, scale, bias, row_sums, output_rows, act_scale,
// act_zero_point, input_factor, input_shift; then the residual, if there is one.
constexpr int32_t kInputs = 13;

constexpr int32_t kMaxRank = 8;

struct Shape {
  int32_t rank;
  int64_t sides[kMaxRank];
};

enum class Type { kFloat32, kFloat16, kInt32, kInt8, kOther };

// kHwc: channels last. kHwc8: they are padded to whole eights, too.
enum class Format { kLinear, kHwc, kHwc8, kOther };

struct Tensor {
  Type type;
  Format format;
};

// Whether the plugin takes tensors 0 to `position`, of which those before it are taken: inputs,
// then Y. A convolution takes X and gives Y with channels last where they need no padding.
bool takes(const PluginLayer& layer, const Tensor* tensors, int32_t position, int32_t inputs);

// The shape of Y, in numbers or in TensorRT's expressions: size_of(size, extra, stride) is
// (size + extra) / stride + 1, and `rows` is O.
template <typename Size, typename SizeOf>
void set_output_shape(const PluginLayer& layer, const Size* x, int32_t rank, SizeOf size_of,
                      Size rows, Size* y) {
  const MpqLayer& kernel = layer.kernel;
  for (int32_t i = 0; i < rank; ++i) y[i] = x[i];
  if (layer.op == Operator::kLinear) {
    y[rank - 1] = rows;
    return;
  }
  y[1] = rows;
  for (int32_t i = 0; i < 2; ++i) {
    const int32_t reach = kernel.dilations[i] * (kernel.kernel_shape[i] - 1) + 1;
    y[2 + i] = size_of(x[2 + i], kernel.pads[i] + kernel.pads[2 + i] - reach, kernel.strides[i]);
  }
}

// Throws Refused if X has not the axes of the operator's input.
void check_rank(const PluginLayer& layer, int32_t rank);

// Throws Refused if there are other inputs, or of other shapes, than the layer has: kernels read no
// further than these say. What they hold is the file's word.
void check_inputs(const PluginLayer& layer, const Shape* inputs, int32_t count);

}  // namespace mpq::trt
