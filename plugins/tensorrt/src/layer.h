// What a plugin knows of its layer before tensors are there, and what it says of one it refuses.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "../../kernels/include/mpq_kernels.h"

namespace mpq::trt {

enum class Operator { kLinear, kConv };

constexpr const char* kVersion = "1";      // plugin_version
constexpr const char* kNamespace = "";     // plugin_namespace
constexpr int32_t kTileRows = 32;          // of the layout
constexpr int32_t kBlockColumns = 128;     // of the layout
constexpr int32_t kChannelAlignment = 16;  // of the layout, per tap and group

constexpr const char* name_of(Operator op) {
  return op == Operator::kLinear ? "MPQLinear" : "MPQConv";
}

struct PluginLayer {
  Operator op = Operator::kLinear;
  std::string node;
  MpqLayer kernel = {};  // its pointers are null
  std::vector<int32_t> plane_rows;
  int32_t columns = 0;          // K
  int32_t multiprocessors = 0;  // for how many work is cut; outputs do not depend on it
};

// A layer, or a use of it, that the plugin cannot take. The text begins with the node's name.
class Refused : public std::runtime_error {
 public:
  Refused(const std::string& node, const std::string& why)
      : std::runtime_error(node + ": " + why) {}
};

}  // namespace mpq::trt
