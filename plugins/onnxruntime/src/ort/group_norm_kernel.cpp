#include "group_norm_kernel.h"

#include <cmath>

#include "../kernels/kernels.h"
#include "in_float.h"
#include "session_threads.h"

namespace mpq::ort {

GroupNormKernel::GroupNormKernel(const OrtApi& api, const OrtKernelInfo& info, bool silu)
    : api_(api), kernels_(chosen_kernels()) {
  const NodeReader node(api, info);
  const Tensor<float> scale = node.constant<float>(1, "scale");
  const Tensor<float> bias = node.constant<float>(2, "bias");
  norm_ = {node.integer("num_groups"), node.real("epsilon"), silu, scale.data, bias.data};
  if (scale.shape.size() != 1 || scale.shape != bias.shape) {
    throw ContractError("scale and bias are not of one shape, [C]");
  }
  channels_ = scale.shape[0];
  if (norm_.groups < 1 || channels_ < 1 || channels_ % norm_.groups != 0) {
    throw ContractError(std::to_string(channels_) + " channels do not divide into " +
                        std::to_string(norm_.groups) + " groups");
  }
  if (!(norm_.epsilon >= 0 && std::isfinite(norm_.epsilon))) {
    throw ContractError("epsilon is negative or not finite");
  }
}

void GroupNormKernel::compute(OrtKernelContext& context) const {
  const OrtValue* x_value = input_of(api_, context, 0, "X");
  const TensorInfo x = info_of(api_, x_value);
  require_float(x);
  if (x.rank < 2 || x.dims[1] != channels_) {
    throw ContractError("X is " + text_of(x) + ", expected [N, " + std::to_string(channels_) +
                        ", ...]");
  }
  OrtValue* y_value = nullptr;
  require(api_, api_.KernelContext_GetOutput(&context, 0, x.dims.data(), x.rank, &y_value));
  const int64_t size = product(x, x.rank);
  if (size == 0) return;
  SessionThreads threads(api_, context);
  const int64_t pixels = size / x.dims[0] / channels_;
  run_in_float(data_of(api_, x_value), size, data_of(api_, y_value), size, x.type, threads,
               [&](const float* from, float* to) {
                 group_norm(norm_, kernels_, from, x.dims[0], channels_, pixels, to, threads);
               });
}

}  // namespace mpq::ort
