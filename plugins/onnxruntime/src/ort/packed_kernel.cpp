#include "packed_kernel.h"

#include "../kernels/kernels.h"
#include "../scratch.h"
#include "in_float.h"
#include "node.h"
#include "session_threads.h"
#include "tensor.h"

namespace mpq::ort {
namespace {

TensorInfo linear_output(const Layer& layer, const TensorInfo& x) {
  if (x.rank < 1 || x.dims[x.rank - 1] != layer.input_channels()) {
    throw ContractError("X is " + text_of(x) + ", expected [..., " +
                        std::to_string(layer.input_channels()) + "]");
  }
  TensorInfo y = x;
  y.dims[x.rank - 1] = layer.rows();
  return y;
}

TensorInfo conv_output(const Layer& layer, const TensorInfo& x) {
  if (x.rank != 4 || x.dims[1] != layer.input_channels()) {
    throw ContractError("X is " + text_of(x) + ", expected [N, " +
                        std::to_string(layer.input_channels()) + ", H, W]");
  }
  const auto [height, width] = layer.output_size(x.dims[2], x.dims[3]);
  TensorInfo y = x;
  y.dims[1] = layer.rows();
  y.dims[2] = height;
  y.dims[3] = width;
  return y;
}

Extents extents_of(const TensorInfo& tensor) { return {tensor.dims.data(), tensor.rank}; }

// y = fl(y + residual), both float16: what an addition behind the layer would make of its output.
void add_to_half(const uint16_t* residual, ResidualForm form, const TensorInfo& shape, uint16_t* y,
                 Parallel& parallel) {
  const int64_t size = product(shape, shape.rank);
  const bool per_pixel = form == ResidualForm::kEveryPixel;
  const int64_t pixels = per_pixel ? 1 : shape.dims[2] * shape.dims[3];
  const int64_t values = form == ResidualForm::kSharedChannels ? shape.dims[1] : size / pixels;
  run_all(parallel, (size + kPieceValues - 1) / kPieceValues, [&](int64_t piece) {
    const int64_t end = std::min(size, (piece + 1) * kPieceValues);
    for (int64_t i = piece * kPieceValues; i < end; ++i)
      y[i] = narrow(widen(y[i]) + widen(residual[i / pixels % values]));
  });
}

}  // namespace

PackedKernel::PackedKernel(const OrtApi& api, const OrtKernelInfo& info, bool is_conv)
    : api_(api), is_conv_(is_conv), layer_(describe(api, info, is_conv), chosen_kernels()) {}

ElementType PackedKernel::input_type(std::size_t index) {
  switch (index) {
    case kX:
    case kResidual:
      return kUndefined;
    case kSteps:
    case kInputShift:
      return kInt8;
    case kActScale:
    case kScale:
    case kBias:
    case kInputFactor:
      return kFloat;
    default:
      return kInt32;
  }
}

int32_t PackedKernel::step_of(const OrtKernelContext& context) const {
  const OrtValue* value = input_of(api_, context, kStepIndex, name_of(kStepIndex));
  const TensorInfo info = info_of(api_, value);
  if (info.type != kInt32 || info.rank != 1 || info.dims[0] != 1) {
    throw ContractError("step_index is " + name_of(info.type) + " " + text_of(info) +
                        ", expected int32 [1]");
  }
  const int32_t step = *static_cast<const int32_t*>(data_of(api_, value));
  if (step < 0 || step >= layer_.table_size()) {
    throw ContractError("step_index is " + std::to_string(step) + ", the tables have 0 to " +
                        std::to_string(layer_.table_size() - 1));
  }
  return step;
}

const OrtValue* PackedKernel::residual_of(const OrtKernelContext& context, const TensorInfo& y,
                                          ResidualForm& form) const {
  const OrtValue* value = optional_input_of(api_, context, kResidual);
  if (value == nullptr) return nullptr;
  const TensorInfo residual = info_of(api_, value);
  form = residual_form(extents_of(residual), extents_of(y), is_conv_);
  return value;
}

void PackedKernel::compute(OrtKernelContext& context) const {
  const OrtValue* x_value = input_of(api_, context, kX, "X");
  const TensorInfo x = info_of(api_, x_value);
  const TensorInfo y = is_conv_ ? conv_output(layer_, x) : linear_output(layer_, x);
  const int32_t step = step_of(context);
  ResidualForm form{};
  const OrtValue* residual_value = residual_of(context, y, form);
  OrtValue* y_value = nullptr;
  require(api_, api_.KernelContext_GetOutput(&context, 0, y.dims.data(), y.rank, &y_value));
  const int64_t x_size = product(x, x.rank), y_size = product(y, y.rank);
  if (y_size == 0) return;
  const void* const residual = residual_value ? data_of(api_, residual_value) : nullptr;
  const bool half = x.type == kFloat16;
  const float* const added = half ? nullptr : static_cast<const float*>(residual);
  void* const output = data_of(api_, y_value);
  SessionThreads threads(api_, context);
  const auto run = [&](const float* from, float* to) {
    if (is_conv_) {
      layer_.conv(from, x.dims[0], x.dims[2], x.dims[3], step, {added, form}, to, threads);
    } else {
      layer_.linear(from, product(x, x.rank - 1), step, added, to, threads);
    }
  };
  run_in_float(data_of(api_, x_value), x_size, output, y_size, x.type, threads, run);
  if (half && residual != nullptr) {
    add_to_half(static_cast<const uint16_t*>(residual), form, y, static_cast<uint16_t*>(output),
                threads);
  }
}

}  // namespace mpq::ort
