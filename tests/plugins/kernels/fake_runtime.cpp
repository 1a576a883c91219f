// CUDA's runtime as far as a library built by nvcc asks for it when it is loaded and launches: it
// knows which kernels compiled code has registered, and what was launched last.
#include <cstddef>
#include <cstdio>
#include <map>
#include <string>

namespace {

std::map<const void*, std::string> kernels;
std::string launched;
void* code;

struct Dim3 {
  unsigned x, y, z;
};

}  // namespace

extern "C" {

void** __cudaRegisterFatBinary(void*) { return &code; }
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
int __cudaGetKernel(void**, const void*) { return 0; }
int __cudaPopCallConfiguration(Dim3*, Dim3*, size_t*, void*) { return 0; }
int __cudaLaunchKernel(void*, Dim3, Dim3, void**, size_t, void*) { return 0; }

void __cudaRegisterFunction(void**, const char* function, char*, const char* name, int, void*,
                            void*, void*, void*, int*) {
  kernels[function] = name;
}

// 98 is cudaErrorInvalidDeviceFunction.
int cudaLaunchKernel(const void* function, Dim3 grid, Dim3 block, void**, size_t shared_bytes,
                     void*) {
  const auto found = kernels.find(function);
  if (found == kernels.end()) return 98;
  char text[256];
  std::snprintf(text, sizeof(text), "%s %u %u %u %u %zu", found->second.c_str(), grid.x, grid.y,
                grid.z, block.x, shared_bytes);
  launched = text;
  return 0;
}

int cudaFuncGetAttributes(void*, const void* function) {
  return kernels.count(function) == 0 ? 98 : 0;
}

int cudaGetLastError() { return 0; }
const char* cudaGetErrorString(int) { return "an error"; }

const char* fake_runtime_launched() { return launched.c_str(); }
}
