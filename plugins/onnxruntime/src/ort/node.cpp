#include "node.h"

#include "reader.h"

namespace mpq::ort {
namespace {

constexpr const char* kNames[kInputCount] = {
    "X",     "step_index", "act_scale", "act_zero_point", "planes",      "steps",
    "scale", "row_order",  "bias",      "input_factor",   "input_shift", "residual"};
constexpr const char* kLayout = "canonical";
constexpr int kVersion = 1;

void require_known(const NodeReader& node) {
  const std::string version = node.text("plugin_version");
  if (version != std::to_string(kVersion)) {
    throw ContractError("the node is of version '" + version + "', this library knows version " +
                        std::to_string(kVersion) + "; a newer node needs a newer library");
  }
  const std::string layout = node.text("layout");
  if (layout != kLayout) {
    throw ContractError("the layout is '" + layout + "', this library knows '" + kLayout + "'");
  }
}

}  // namespace

const char* name_of(Input input) { return kNames[input]; }

LayerDescription describe(const OrtApi& api, const OrtKernelInfo& info, bool is_conv) {
  const NodeReader node(api, info);
  require_known(node);
  LayerDescription layer;
  layer.is_conv = is_conv;
  if (is_conv) {
    layer.conv = {node.fixed<2>("kernel_shape"), node.fixed<2>("strides"), node.fixed<4>("pads"),
                  node.fixed<2>("dilations"), node.integer("group")};
  }
  layer.act_bits = node.integer("act_bits");
  layer.columns = node.integer("K");
  layer.plane_rows = node.integers("plane_rows");
  layer.act_scale = node.constant<float>(kActScale, kNames[kActScale]);
  layer.act_zero_point = node.constant<int32_t>(kActZeroPoint, kNames[kActZeroPoint]);
  layer.planes = node.constant<int32_t>(kPlanes, kNames[kPlanes]);
  layer.steps = node.constant<int8_t>(kSteps, kNames[kSteps]);
  layer.scale = node.constant<float>(kScale, kNames[kScale]);
  layer.row_order = node.constant<int32_t>(kRowOrder, kNames[kRowOrder]);
  layer.bias = node.constant<float>(kBias, kNames[kBias]);
  layer.input_factor = node.constant<float>(kInputFactor, kNames[kInputFactor]);
  layer.input_shift = node.constant<int8_t>(kInputShift, kNames[kInputShift]);
  return layer;
}

}  // namespace mpq::ort
