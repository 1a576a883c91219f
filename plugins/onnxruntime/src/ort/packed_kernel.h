// The operators of packed layers, MPQLinear and MPQConv.
#pragma once

#include "node.h"
#include "tensor.h"

namespace mpq::ort {

class PackedKernel {
 public:
  static constexpr std::size_t kInputs = kInputCount, kRequiredInputs = kResidual;
  static ElementType input_type(std::size_t index);

  PackedKernel(const OrtApi& api, const OrtKernelInfo& info, bool is_conv);

  // Reads X, step_index and the residual, writes Y; any number of threads at once. Throws
  // ContractError on inputs that the layer does not take.
  void compute(OrtKernelContext& context) const;

 private:
  int32_t step_of(const OrtKernelContext& context) const;
  // The residual, null where there is none, and its form; `y` is the output that it is added to.
  const OrtValue* residual_of(const OrtKernelContext& context, const TensorInfo& y,
                              ResidualForm& form) const;

  const OrtApi& api_;
  const bool is_conv_;
  const Layer layer_;
};

struct LinearKernel : PackedKernel {
  static constexpr const char* kName = "MPQLinear";
  LinearKernel(const OrtApi& api, const OrtKernelInfo& info) : PackedKernel(api, info, false) {}
};

struct ConvKernel : PackedKernel {
  static constexpr const char* kName = "MPQConv";
  ConvKernel(const OrtApi& api, const OrtKernelInfo& info) : PackedKernel(api, info, true) {}
};

}  // namespace mpq::ort
