// The part of ONNX Runtime's C ABI that a custom-operator library needs, declared by hand: no
// package index carries the C headers. The ABI only ever grows at its end, so these slots hold for
// API version 17 and all later ones. abi_check.cpp compares them with the real header where it is
// installed.
#pragma once

#include <cstddef>
#include <cstdint>

namespace mpq::ort {

constexpr std::uint32_t kApiVersion = 17;

struct OrtStatus;
struct OrtSessionOptions;
struct OrtCustomOpDomain;
struct OrtKernelInfo;
struct OrtKernelContext;
struct OrtValue;
struct OrtTensorTypeAndShapeInfo;
struct OrtCustomOp;

enum OrtErrorCode : int { kFail = 1, kInvalidArgument = 2 };
enum ElementType : int { kUndefined = 0, kFloat = 1, kInt8 = 3, kInt32 = 6, kFloat16 = 10 };
enum InputOutputCharacteristic : int { kRequired = 0, kOptional = 1 };
enum OrtMemType : int { kDefaultMemory = 0 };

using Unused = void*;

struct OrtApi {
  OrtStatus* (*CreateStatus)(OrtErrorCode, const char* message);
  Unused slot1[1];
  const char* (*GetErrorMessage)(const OrtStatus*);
  Unused slot3[23];
  OrtStatus* (*CreateCustomOpDomain)(const char* domain, OrtCustomOpDomain** out);
  OrtStatus* (*CustomOpDomain_Add)(OrtCustomOpDomain*, const OrtCustomOp*);
  OrtStatus* (*AddCustomOpDomain)(OrtSessionOptions*, OrtCustomOpDomain*);
  Unused slot29[22];
  OrtStatus* (*GetTensorMutableData)(OrtValue*, void** out);
  Unused slot52[8];
  OrtStatus* (*GetTensorElementType)(const OrtTensorTypeAndShapeInfo*, ElementType* out);
  OrtStatus* (*GetDimensionsCount)(const OrtTensorTypeAndShapeInfo*, std::size_t* out);
  OrtStatus* (*GetDimensions)(const OrtTensorTypeAndShapeInfo*, std::int64_t* out,
                              std::size_t count);
  Unused slot63[2];
  OrtStatus* (*GetTensorTypeAndShape)(const OrtValue*, OrtTensorTypeAndShapeInfo** out);
  Unused slot66[19];
  OrtStatus* (*KernelInfoGetAttribute_float)(const OrtKernelInfo*, const char* name, float* out);
  OrtStatus* (*KernelInfoGetAttribute_int64)(const OrtKernelInfo*, const char* name,
                                             std::int64_t* out);
  // Fills `size` bytes with the terminating zero; with a null `out` it only sets `size`.
  OrtStatus* (*KernelInfoGetAttribute_string)(const OrtKernelInfo*, const char* name, char* out,
                                              std::size_t* size);
  Unused slot88[2];
  OrtStatus* (*KernelContext_GetInput)(const OrtKernelContext*, std::size_t index,
                                       const OrtValue** out);
  OrtStatus* (*KernelContext_GetOutput)(OrtKernelContext*, std::size_t index,
                                        const std::int64_t* dims, std::size_t count,
                                        OrtValue** out);
  Unused slot92[1];
  void (*ReleaseStatus)(OrtStatus*);
  Unused slot94[5];
  void (*ReleaseTensorTypeAndShapeInfo)(OrtTensorTypeAndShapeInfo*);
  Unused slot100[1];
  void (*ReleaseCustomOpDomain)(OrtCustomOpDomain*);
  Unused slot102[61];
  OrtStatus* (*KernelInfoGetAttributeArray_int64)(const OrtKernelInfo*, const char* name,
                                                  std::int64_t* out, std::size_t* size);
  Unused slot164[80];
  OrtStatus* (*KernelInfo_GetNodeName)(const OrtKernelInfo*, char* out, std::size_t* size);
  Unused slot245[4];
  OrtStatus* (*KernelInfoGetConstantInput_tensor)(const OrtKernelInfo*, std::size_t index,
                                                  int* is_constant, const OrtValue** out);
  Unused slot250[24];
  // work(state, i) for every i < total on the session's own threads; `batches` 0: one by one.
  OrtStatus* (*KernelContext_ParallelFor)(const OrtKernelContext*,
                                          void (*work)(void* state, std::size_t index),
                                          std::size_t total, std::size_t batches, void* state);
};

struct OrtApiBase {
  const OrtApi* (*GetApi)(std::uint32_t version);
  const char* (*GetVersionString)();
};

struct OrtCustomOp {
  std::uint32_t version;
  void* (*CreateKernel)(const OrtCustomOp*, const OrtApi*, const OrtKernelInfo*);
  const char* (*GetName)(const OrtCustomOp*);
  const char* (*GetExecutionProviderType)(const OrtCustomOp*);
  ElementType (*GetInputType)(const OrtCustomOp*, std::size_t index);
  std::size_t (*GetInputTypeCount)(const OrtCustomOp*);
  ElementType (*GetOutputType)(const OrtCustomOp*, std::size_t index);
  std::size_t (*GetOutputTypeCount)(const OrtCustomOp*);
  void (*KernelCompute)(void* kernel, OrtKernelContext*);
  void (*KernelDestroy)(void* kernel);
  InputOutputCharacteristic (*GetInputCharacteristic)(const OrtCustomOp*, std::size_t index);
  InputOutputCharacteristic (*GetOutputCharacteristic)(const OrtCustomOp*, std::size_t index);
  OrtMemType (*GetInputMemoryType)(const OrtCustomOp*, std::size_t index);
  int (*GetVariadicInputMinArity)(const OrtCustomOp*);
  int (*GetVariadicInputHomogeneity)(const OrtCustomOp*);
  int (*GetVariadicOutputMinArity)(const OrtCustomOp*);
  int (*GetVariadicOutputHomogeneity)(const OrtCustomOp*);
  OrtStatus* (*CreateKernelV2)(const OrtCustomOp*, const OrtApi*, const OrtKernelInfo*,
                               void** kernel);
  OrtStatus* (*KernelComputeV2)(void* kernel, OrtKernelContext*);
  Unused InferOutputShapeFn;
  Unused GetStartVersion;
  Unused GetEndVersion;
  // Of later versions; null, should a runtime read them all the same.
  Unused later[4];
};

#define MPQ_SLOT(function, index) \
  static_assert(offsetof(OrtApi, function) == (index) * sizeof(void*), #function)
MPQ_SLOT(CreateStatus, 0);
MPQ_SLOT(GetErrorMessage, 2);
MPQ_SLOT(CreateCustomOpDomain, 26);
MPQ_SLOT(CustomOpDomain_Add, 27);
MPQ_SLOT(AddCustomOpDomain, 28);
MPQ_SLOT(GetTensorMutableData, 51);
MPQ_SLOT(GetTensorElementType, 60);
MPQ_SLOT(GetDimensionsCount, 61);
MPQ_SLOT(GetDimensions, 62);
MPQ_SLOT(GetTensorTypeAndShape, 65);
MPQ_SLOT(KernelInfoGetAttribute_float, 85);
MPQ_SLOT(KernelInfoGetAttribute_int64, 86);
MPQ_SLOT(KernelInfoGetAttribute_string, 87);
MPQ_SLOT(KernelContext_GetInput, 90);
MPQ_SLOT(KernelContext_GetOutput, 91);
MPQ_SLOT(ReleaseStatus, 93);
MPQ_SLOT(ReleaseTensorTypeAndShapeInfo, 99);
MPQ_SLOT(ReleaseCustomOpDomain, 101);
MPQ_SLOT(KernelInfoGetAttributeArray_int64, 163);
MPQ_SLOT(KernelInfo_GetNodeName, 244);
MPQ_SLOT(KernelInfoGetConstantInput_tensor, 249);
MPQ_SLOT(KernelContext_ParallelFor, 274);
#undef MPQ_SLOT

static_assert(offsetof(OrtCustomOp, CreateKernelV2) == 17 * sizeof(void*));
static_assert(offsetof(OrtCustomOp, KernelComputeV2) == 18 * sizeof(void*));

}  // namespace mpq::ort
