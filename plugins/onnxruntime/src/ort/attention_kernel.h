// The operator MPQAttention.
#pragma once

#include "../attention.h"
#include "reader.h"

namespace mpq::ort {

// Inputs query [B, S, H*D], key and value [B, T, H*D]; attributes num_heads, scale. Computes in
// float32.
class AttentionKernel {
 public:
  static constexpr const char* kName = "MPQAttention";
  static constexpr std::size_t kInputs = 3, kRequiredInputs = 3;
  static ElementType input_type(std::size_t) { return kUndefined; }

  AttentionKernel(const OrtApi& api, const OrtKernelInfo& info);

  void compute(OrtKernelContext& context) const;

 private:
  const OrtApi& api_;
  const Kernels& kernels_;
  const Attention attention_;
};

}  // namespace mpq::ort
