#include "tensor.h"

#include <algorithm>

namespace mpq::ort {

bool same_shape(const TensorInfo& one, const TensorInfo& other) {
  return one.rank == other.rank &&
         std::equal(one.dims.begin(), one.dims.begin() + one.rank, other.dims.begin());
}

TensorInfo info_of(const OrtApi& api, const OrtValue* value) {
  OrtTensorTypeAndShapeInfo* held = nullptr;
  require(api, api.GetTensorTypeAndShape(value, &held));
  struct Release {
    const OrtApi& api;
    OrtTensorTypeAndShapeInfo* held;
    ~Release() { api.ReleaseTensorTypeAndShapeInfo(held); }
  } release{api, held};
  TensorInfo info;
  require(api, api.GetTensorElementType(held, &info.type));
  require(api, api.GetDimensionsCount(held, &info.rank));
  if (info.rank > kMostDimensions) {
    throw ContractError("a tensor of " + std::to_string(info.rank) + " dimensions; at most " +
                        std::to_string(kMostDimensions) + " are taken");
  }
  require(api, api.GetDimensions(held, info.dims.data(), info.rank));
  return info;
}

int64_t product(const TensorInfo& tensor, std::size_t count) {
  int64_t size = 1;
  for (std::size_t i = 0; i < count; ++i) {
    if (tensor.dims[i] == 0) return 0;
  }
  for (std::size_t i = 0; i < count; ++i) size *= tensor.dims[i];
  return size;
}

std::string text_of(const TensorInfo& tensor) {
  std::string text = "[";
  for (std::size_t i = 0; i < tensor.rank; ++i) {
    text += (i ? ", " : "") + std::to_string(tensor.dims[i]);
  }
  return text + "]";
}

std::string name_of(ElementType type) {
  switch (type) {
    case kFloat:
      return "float32";
    case kFloat16:
      return "float16";
    case kInt8:
      return "int8";
    case kInt32:
      return "int32";
    default:
      return "of ONNX type " + std::to_string(static_cast<int>(type));
  }
}

const OrtValue* optional_input_of(const OrtApi& api, const OrtKernelContext& context,
                                  std::size_t index) {
  const OrtValue* value = nullptr;
  require(api, api.KernelContext_GetInput(&context, index, &value));
  return value;
}

const OrtValue* input_of(const OrtApi& api, const OrtKernelContext& context, std::size_t index,
                         const char* name) {
  const OrtValue* value = optional_input_of(api, context, index);
  if (value == nullptr) throw ContractError(std::string("input ") + name + " is missing");
  return value;
}

void require_float(const TensorInfo& x, const char* name) {
  if (x.type != kFloat && x.type != kFloat16) {
    throw ContractError(std::string(name) + " is " + name_of(x.type) +
                        ", expected float32 or float16");
  }
}

void* data_of(const OrtApi& api, const OrtValue* value) {
  void* data = nullptr;
  // The API has no reader's form of this call; what is constant is only read.
  require(api, api.GetTensorMutableData(const_cast<OrtValue*>(value), &data));
  return data;
}

}  // namespace mpq::ort
