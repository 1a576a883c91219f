// Reading what a node of the graph says.
#pragma once

#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include "../description.h"
#include "status.h"
#include "tensor.h"

namespace mpq::ort {

// The node's name in the graph; may be empty.
std::string node_name(const OrtApi& api, const OrtKernelInfo& info);

template <typename T>
constexpr ElementType kTypeOf = kUndefined;
template <>
constexpr ElementType kTypeOf<float> = kFloat;
template <>
constexpr ElementType kTypeOf<int8_t> = kInt8;
template <>
constexpr ElementType kTypeOf<int32_t> = kInt32;

// Attributes and constant inputs of one node. All throw ContractError on what is missing or of
// another form, with its name.
class NodeReader {
 public:
  NodeReader(const OrtApi& api, const OrtKernelInfo& info) : api_(api), info_(info) {}

  int64_t integer(const char* name) const {
    int64_t value = 0;
    checked(name, api_.KernelInfoGetAttribute_int64(&info_, name, &value));
    return value;
  }

  float real(const char* name) const {
    float value = 0;
    checked(name, api_.KernelInfoGetAttribute_float(&info_, name, &value));
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
  Tensor<T> constant(std::size_t input, const char* input_name) const {
    const std::string name = std::string("input ") + input_name;
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

}  // namespace mpq::ort
