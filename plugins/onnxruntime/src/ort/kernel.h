// One node's layer, and its calls.
#pragma once

#include <string>

#include "status.h"

namespace mpq::ort {

class Kernel {
 public:
  Kernel(const OrtApi& api, const OrtKernelInfo& info, std::string node, bool is_conv);

  // Reads X and step_index, writes Y; any number of threads at once. Throws ContractError on
  // inputs that the layer does not take.
  void compute(OrtKernelContext& context) const;

  const OrtApi& api() const { return api_; }
  const std::string& node() const { return node_; }

 private:
  int32_t step_of(const OrtKernelContext& context) const;

  const OrtApi& api_;
  const std::string node_;
  const bool is_conv_;
  const Layer layer_;
};

}  // namespace mpq::ort
