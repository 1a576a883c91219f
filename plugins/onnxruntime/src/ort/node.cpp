#include "node.h"

#include <algorithm>

#include "tensor.h"

namespace mpq::ort {
namespace {

constexpr const char* kNames[kInputCount] = {
    "X",     "step_index", "act_scale", "act_zero_point", "planes",     "steps",
    "scale", "row_order",  "bias",      "input_factor",   "input_shift"};
constexpr const char* kLayout = "canonical";
constexpr int kVersion = 1;

template <typename T>
constexpr ElementType kTypeOf = kUndefined;
template <>
constexpr ElementType kTypeOf<float> = kFloat;
template <>
constexpr ElementType kTypeOf<int8_t> = kInt8;
template <>
constexpr ElementType kTypeOf<int32_t> = kInt32;

class Reader {
 public:
  Reader(const OrtApi& api, const OrtKernelInfo& info) : api_(api), info_(info) {}

  int64_t integer(const char* name) const {
    int64_t value = 0;
    checked(name, api_.KernelInfoGetAttribute_int64(&info_, name, &value));
    return value;
  }

  std::vector<int64_t> integers(const char* name) const {
    std::size_t size = 0;
    checked(name, api_.KernelInfoGetAttributeArray_int64(&info_, name, nullptr, &size));
    std::vector<int64_t> values(size);
    if (size) {
      checked(name, api_.KernelInfoGetAttributeArray_int64(&info_, name, values.data(), &size));
    }
    return values;
  }

  std::string text(const char* name) const {
    std::size_t size = 0;
    checked(name, api_.KernelInfoGetAttribute_string(&info_, name, nullptr, &size));
    std::string value(size, '\0');
    checked(name, api_.KernelInfoGetAttribute_string(&info_, name, value.data(), &size));
    value.resize(size ? size - 1 : 0);
    return value;
  }

  template <std::size_t Count>
  std::array<int64_t, Count> fixed(const char* name) const {
    const std::vector<int64_t> values = integers(name);
    if (values.size() != Count) {
      throw ContractError(std::string("attribute ") + name + " has " +
                          std::to_string(values.size()) + " values, expected " +
                          std::to_string(Count));
    }
    std::array<int64_t, Count> result{};
    std::copy(values.begin(), values.end(), result.begin());
    return result;
  }

  template <typename T>
  Tensor<T> constant(Input input) const {
    const std::string name = std::string("input ") + name_of(input);
    int is_constant = 0;
    const OrtValue* value = nullptr;
    require(api_, api_.KernelInfoGetConstantInput_tensor(&info_, input, &is_constant, &value));
    if (!is_constant || value == nullptr) {
      throw ContractError(name + " is no constant; weights and tables must be initializers");
    }
    const TensorInfo info = info_of(api_, value);
    if (info.type != kTypeOf<T>) {
      throw ContractError(name + " is " + ort::name_of(info.type) + ", expected " +
                          ort::name_of(kTypeOf<T>));
    }
    return {static_cast<const T*>(data_of(api_, value)), info.shape()};
  }

 private:
  void checked(const char* name, OrtStatus* status) const {
    try {
      require(api_, status);
    } catch (const ApiError& error) {
      throw ContractError(std::string("attribute ") + name + ": " + error.what());
    }
  }

  const OrtApi& api_;
  const OrtKernelInfo& info_;
};

void require_known(const Reader& node) {
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

std::string node_name(const OrtApi& api, const OrtKernelInfo& info) {
  std::size_t size = 0;
  require(api, api.KernelInfo_GetNodeName(&info, nullptr, &size));
  std::string name(size, '\0');
  require(api, api.KernelInfo_GetNodeName(&info, name.data(), &size));
  name.resize(size ? size - 1 : 0);
  return name;
}

LayerDescription describe(const OrtApi& api, const OrtKernelInfo& info, bool is_conv) {
  const Reader node(api, info);
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
  layer.act_scale = node.constant<float>(kActScale);
  layer.act_zero_point = node.constant<int32_t>(kActZeroPoint);
  layer.planes = node.constant<int32_t>(kPlanes);
  layer.steps = node.constant<int8_t>(kSteps);
  layer.scale = node.constant<float>(kScale);
  layer.row_order = node.constant<int32_t>(kRowOrder);
  layer.bias = node.constant<float>(kBias);
  layer.input_factor = node.constant<float>(kInputFactor);
  layer.input_shift = node.constant<int8_t>(kInputShift);
  return layer;
}

}  // namespace mpq::ort
