// The operators MPQGroupNorm and MPQGroupNormSiLU.
#pragma once

#include "../group_norm.h"
#include "reader.h"

namespace mpq::ort {

// Inputs X [N, C, ...], scale [C], bias [C]; attributes num_groups, epsilon. Computes in float32.
class GroupNormKernel {
 public:
  static constexpr std::size_t kInputs = 3, kRequiredInputs = 3;
  static constexpr ElementType kOutput = kUndefined;
  static ElementType input_type(std::size_t index) { return index == 0 ? kUndefined : kFloat; }

  GroupNormKernel(const OrtApi& api, const OrtKernelInfo& info, bool silu);

  void compute(OrtKernelContext& context) const;

 private:
  const OrtApi& api_;
  const Kernels& kernels_;
  int64_t channels_ = 0;
  GroupNorm norm_{};
};

struct PlainGroupNormKernel : GroupNormKernel {
  static constexpr const char* kName = "MPQGroupNorm";
  PlainGroupNormKernel(const OrtApi& api, const OrtKernelInfo& info)
      : GroupNormKernel(api, info, false) {}
};

struct SiluGroupNormKernel : GroupNormKernel {
  static constexpr const char* kName = "MPQGroupNormSiLU";
  SiluGroupNormKernel(const OrtApi& api, const OrtKernelInfo& info)
      : GroupNormKernel(api, info, true) {}
};

}  // namespace mpq::ort
