// The operators of packed layers, MPQLinear and MPQConv.
#pragma once

#include "node.h"

namespace mpq::ort {

class PackedKernel {
 public:
  static constexpr std::size_t kInputs = kInputCount;
  static constexpr ElementType kOutput = kUndefined;
  static ElementType input_type(std::size_t index);

  PackedKernel(const OrtApi& api, const OrtKernelInfo& info, bool is_conv);

  // Reads X and step_index, writes Y; any number of threads at once. Throws ContractError on
  // inputs that the layer does not take.
  void compute(OrtKernelContext& context) const;

 private:
  int32_t step_of(const OrtKernelContext& context) const;

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
