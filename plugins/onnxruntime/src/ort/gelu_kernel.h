// The operators MPQGelu and MPQGeglu.
#pragma once

#include "../gelu.h"
#include "reader.h"

namespace mpq::ort {

// Input X; attribute approximate, "none" or "tanh". Computes in float32.
class ActivationKernel {
 public:
  static constexpr std::size_t kInputs = 1, kRequiredInputs = 1;
  static constexpr ElementType kOutput = kUndefined;
  static ElementType input_type(std::size_t) { return kUndefined; }

  ActivationKernel(const OrtApi& api, const OrtKernelInfo& info);

 protected:
  const OrtApi& api_;
  const Kernels& kernels_;
  const GeluForm form_;
};

// Y of the shape of X.
struct GeluKernel : ActivationKernel {
  static constexpr const char* kName = "MPQGelu";
  using ActivationKernel::ActivationKernel;
  void compute(OrtKernelContext& context) const;
};

// X [..., 2 * width], Y [..., width].
struct GegluKernel : ActivationKernel {
  static constexpr const char* kName = "MPQGeglu";
  using ActivationKernel::ActivationKernel;
  void compute(OrtKernelContext& context) const;
};

}  // namespace mpq::ort
