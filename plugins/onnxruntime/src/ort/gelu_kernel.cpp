#include "gelu_kernel.h"

#include "../kernels/kernels.h"
#include "in_float.h"
#include "session_threads.h"

namespace mpq::ort {
namespace {

GeluForm form_of(const NodeReader& node) {
  const std::string approximate = node.text("approximate");
  if (approximate == "none") return GeluForm::kErf;
  if (approximate == "tanh") return GeluForm::kTanh;
  throw ContractError("attribute approximate is '" + approximate + "', expected 'none' or 'tanh'");
}

}  // namespace

ActivationKernel::ActivationKernel(const OrtApi& api, const OrtKernelInfo& info)
    : api_(api), kernels_(chosen_kernels()), form_(form_of(NodeReader(api, info))) {}

void GeluKernel::compute(OrtKernelContext& context) const {
  const OrtValue* x_value = input_of(api_, context, 0, "X");
  const TensorInfo x = info_of(api_, x_value);
  require_float(x);
  OrtValue* y_value = nullptr;
  require(api_, api_.KernelContext_GetOutput(&context, 0, x.dims.data(), x.rank, &y_value));
  const int64_t size = product(x, x.rank);
  if (size == 0) return;
  SessionThreads threads(api_, context);
  run_in_float(
      data_of(api_, x_value), size, data_of(api_, y_value), size, x.type, threads,
      [&](const float* from, float* to) { gelu(form_, kernels_, from, size, to, threads); });
}

void GegluKernel::compute(OrtKernelContext& context) const {
  const OrtValue* x_value = input_of(api_, context, 0, "X");
  const TensorInfo x = info_of(api_, x_value);
  require_float(x);
  if (x.rank == 0 || x.dims[x.rank - 1] % 2 != 0) {
    throw ContractError("X is " + text_of(x) + ", expected [..., an even number]");
  }
  TensorInfo y = x;
  const int64_t width = y.dims[y.rank - 1] /= 2;
  OrtValue* y_value = nullptr;
  require(api_, api_.KernelContext_GetOutput(&context, 0, y.dims.data(), y.rank, &y_value));
  const int64_t size = product(y, y.rank);
  if (size == 0) return;
  SessionThreads threads(api_, context);
  run_in_float(data_of(api_, x_value), 2 * size, data_of(api_, y_value), size, x.type, threads,
               [&](const float* from, float* to) {
                 geglu(form_, kernels_, from, size / width, width, to, threads);
               });
}

}  // namespace mpq::ort
