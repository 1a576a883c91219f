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

}  // namespace

PackedKernel::PackedKernel(const OrtApi& api, const OrtKernelInfo& info, bool is_conv)
    : api_(api), is_conv_(is_conv), layer_(describe(api, info, is_conv), chosen_kernels()) {}

ElementType PackedKernel::input_type(std::size_t index) {
  switch (index) {
    case kX:
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

void PackedKernel::compute(OrtKernelContext& context) const {
  const OrtValue* x_value = input_of(api_, context, kX, "X");
  const TensorInfo x = info_of(api_, x_value);
  require_float(x);
  const TensorInfo y = is_conv_ ? conv_output(layer_, x) : linear_output(layer_, x);
  const int32_t step = step_of(context);
  OrtValue* y_value = nullptr;
  require(api_, api_.KernelContext_GetOutput(&context, 0, y.dims.data(), y.rank, &y_value));
  const int64_t x_size = product(x, x.rank), y_size = product(y, y.rank);
  if (y_size == 0) return;
  SessionThreads threads(api_, context);
  const auto run = [&](const float* from, float* to) {
    if (is_conv_) {
      layer_.conv(from, x.dims[0], x.dims[2], x.dims[3], step, to, threads);
    } else {
      layer_.linear(from, product(x, x.rank - 1), step, to, threads);
    }
  };
  run_in_float(data_of(api_, x_value), x_size, data_of(api_, y_value), y_size, x.type, threads,
               run);
}

}  // namespace mpq::ort
