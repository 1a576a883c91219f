#include "reader.h"

namespace mpq::ort {

std::string node_name(const OrtApi& api, const OrtKernelInfo& info) {
  std::size_t size = 0;
  require(api, api.KernelInfo_GetNodeName(&info, nullptr, &size));
  std::string name(size, '\0');
  require(api, api.KernelInfo_GetNodeName(&info, name.data(), &size));
  name.resize(size ? size - 1 : 0);
  return name;
}

}  // namespace mpq::ort
