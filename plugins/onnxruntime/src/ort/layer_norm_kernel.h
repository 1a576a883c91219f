// The operator MPQAdaLayerNorm.
#pragma once

#include "../layer_norm.h"
#include "reader.h"

namespace mpq::ort {

// Inputs X [N, T, C], scale and shift [N or 1, 1, C], float32; attribute epsilon. Computes in
// float32.
class AdaLayerNormKernel {
 public:
  static constexpr const char* kName = "MPQAdaLayerNorm";
  static constexpr std::size_t kInputs = 3, kRequiredInputs = 3;
  static constexpr ElementType kOutput = kUndefined;
  static ElementType input_type(std::size_t index) { return index == 0 ? kUndefined : kFloat; }

  AdaLayerNormKernel(const OrtApi& api, const OrtKernelInfo& info);

  void compute(OrtKernelContext& context) const;

 private:
  // An input that says something of every channel of the images in x.
  Modulation modulation(const OrtKernelContext& context, std::size_t input, const char* name,
                        const TensorInfo& x) const;

  const OrtApi& api_;
  const Kernels& kernels_;
  const float epsilon_;
};

}  // namespace mpq::ort
