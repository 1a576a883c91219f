// Compiled where onnxruntime_c_api.h is installed: the hand-declared ABI against the real one.
#include <onnxruntime_c_api.h>

#include "ort_abi.h"

namespace {

#define MPQ_SAME(type, member) \
  static_assert(offsetof(::type, member) == offsetof(mpq::ort::type, member), #member)
MPQ_SAME(OrtApi, CreateStatus);
MPQ_SAME(OrtApi, GetErrorMessage);
MPQ_SAME(OrtApi, CreateCustomOpDomain);
MPQ_SAME(OrtApi, CustomOpDomain_Add);
MPQ_SAME(OrtApi, AddCustomOpDomain);
MPQ_SAME(OrtApi, GetTensorMutableData);
MPQ_SAME(OrtApi, GetTensorElementType);
MPQ_SAME(OrtApi, GetDimensionsCount);
MPQ_SAME(OrtApi, GetDimensions);
MPQ_SAME(OrtApi, GetTensorTypeAndShape);
MPQ_SAME(OrtApi, KernelInfoGetAttribute_float);
MPQ_SAME(OrtApi, KernelInfoGetAttribute_int64);
MPQ_SAME(OrtApi, KernelInfoGetAttribute_string);
MPQ_SAME(OrtApi, KernelContext_GetInput);
MPQ_SAME(OrtApi, KernelContext_GetOutput);
MPQ_SAME(OrtApi, ReleaseStatus);
MPQ_SAME(OrtApi, ReleaseTensorTypeAndShapeInfo);
MPQ_SAME(OrtApi, ReleaseCustomOpDomain);
MPQ_SAME(OrtApi, KernelInfoGetAttributeArray_int64);
MPQ_SAME(OrtApi, KernelInfo_GetNodeName);
MPQ_SAME(OrtApi, KernelInfoGetConstantInput_tensor);
MPQ_SAME(OrtApi, KernelContext_ParallelFor);
MPQ_SAME(OrtCustomOp, version);
MPQ_SAME(OrtCustomOp, GetName);
MPQ_SAME(OrtCustomOp, GetExecutionProviderType);
MPQ_SAME(OrtCustomOp, GetInputType);
MPQ_SAME(OrtCustomOp, GetInputTypeCount);
MPQ_SAME(OrtCustomOp, GetOutputType);
MPQ_SAME(OrtCustomOp, GetOutputTypeCount);
MPQ_SAME(OrtCustomOp, KernelDestroy);
MPQ_SAME(OrtCustomOp, GetInputCharacteristic);
MPQ_SAME(OrtCustomOp, GetOutputCharacteristic);
MPQ_SAME(OrtCustomOp, GetInputMemoryType);
MPQ_SAME(OrtCustomOp, CreateKernelV2);
MPQ_SAME(OrtCustomOp, KernelComputeV2);
#undef MPQ_SAME

static_assert(ORT_FAIL == static_cast<int>(mpq::ort::kFail));
static_assert(ORT_INVALID_ARGUMENT == static_cast<int>(mpq::ort::kInvalidArgument));
static_assert(ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT == static_cast<int>(mpq::ort::kFloat));
static_assert(ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8 == static_cast<int>(mpq::ort::kInt8));
static_assert(ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32 == static_cast<int>(mpq::ort::kInt32));
static_assert(ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16 == static_cast<int>(mpq::ort::kFloat16));

}  // namespace
