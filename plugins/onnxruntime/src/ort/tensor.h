// Type, shape and data of a runtime's tensor.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "status.h"

namespace mpq::ort {

// At most this many dimensions are read, so that no call allocates.
constexpr std::size_t kMostDimensions = 16;

struct TensorInfo {
  ElementType type = kUndefined;
  std::size_t rank = 0;
  std::array<int64_t, kMostDimensions> dims{};

  std::vector<int64_t> shape() const { return {dims.begin(), dims.begin() + rank}; }
};

// Whether both have the same dimensions.
bool same_shape(const TensorInfo& one, const TensorInfo& other);

TensorInfo info_of(const OrtApi& api, const OrtValue* value);

// The product of the first `count` dimensions; 0 if one of them is 0, however large the others.
int64_t product(const TensorInfo& tensor, std::size_t count);

// "[2, 3]".
std::string text_of(const TensorInfo& tensor);

// "float32", or the ONNX number of a type that no operator here takes.
std::string name_of(ElementType type);

// An input of the running call, null where it is absent.
const OrtValue* optional_input_of(const OrtApi& api, const OrtKernelContext& context,
                                  std::size_t index);

// An input of the running call; throws ContractError where it is missing.
const OrtValue* input_of(const OrtApi& api, const OrtKernelContext& context, std::size_t index,
                         const char* name);

// Throws ContractError unless the input, X or of another name, is float32 or float16.
void require_float(const TensorInfo& x, const char* name = "X");

void* data_of(const OrtApi& api, const OrtValue* value);

}  // namespace mpq::ort
