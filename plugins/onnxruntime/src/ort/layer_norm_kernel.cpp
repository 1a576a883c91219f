#include "layer_norm_kernel.h"

#include <cmath>

#include "../kernels/kernels.h"
#include "in_float.h"
#include "session_threads.h"

namespace mpq::ort {

AdaLayerNormKernel::AdaLayerNormKernel(const OrtApi& api, const OrtKernelInfo& info)
    : api_(api), kernels_(chosen_kernels()), epsilon_(NodeReader(api, info).real("epsilon")) {
  if (!(epsilon_ >= 0 && std::isfinite(epsilon_))) {
    throw ContractError("epsilon is negative or not finite");
  }
}

Modulation AdaLayerNormKernel::modulation(const OrtKernelContext& context, std::size_t input,
                                          const char* name, const TensorInfo& x) const {
  const OrtValue* value = input_of(api_, context, input, name);
  const TensorInfo info = info_of(api_, value);
  const int64_t channels = x.dims[2];
  const bool fits = info.rank == 3 && (info.dims[0] == 1 || info.dims[0] == x.dims[0]) &&
                    info.dims[1] == 1 && info.dims[2] == channels;
  if (!fits) {
    throw ContractError(std::string("input ") + name + " is " + text_of(info) + " and X " +
                        text_of(x) + ", expected [N or 1, 1, C] and [N, T, C]");
  }
  return {static_cast<const float*>(data_of(api_, value)), info.dims[0] == 1 ? 0 : channels};
}

void AdaLayerNormKernel::compute(OrtKernelContext& context) const {
  const OrtValue* x_value = input_of(api_, context, 0, "X");
  const TensorInfo x = info_of(api_, x_value);
  require_float(x);
  if (x.rank != 3) throw ContractError("X is " + text_of(x) + ", expected [N, T, C]");
  const Modulation scale = modulation(context, 1, "scale", x);
  const Modulation shift = modulation(context, 2, "shift", x);
  OrtValue* y_value = nullptr;
  require(api_, api_.KernelContext_GetOutput(&context, 0, x.dims.data(), x.rank, &y_value));
  const int64_t size = product(x, x.rank);
  if (size == 0) return;
  SessionThreads threads(api_, context);
  run_in_float(data_of(api_, x_value), size, data_of(api_, y_value), size, x.type, threads,
               [&](const float* from, float* to) {
                 ada_layer_norm(kernels_, epsilon_, from, x.dims[0], x.dims[1], x.dims[2], scale,
                                shift, to, threads);
               });
}

}  // namespace mpq::ort
