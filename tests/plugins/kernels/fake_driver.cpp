// CUDA's driver as far as loaded code is launched by it. Launches run the emulated kernels of the
// same name on what they are given; what a driver refuses is refused, and more: no kernel may take
// shared memory that it was not allowed by its attribute. Memory, streams and graphs have a fake of
// their own, ../../runtimes/fake_cuda.c: there work runs late and addresses are no pointers, while
// emulated kernels run on pointers, at once.
#include <elf.h>

#include <cstring>
#include <map>
#include <string>

#include "emulation/device.h"
#include "src/kernels.h"

#define MPQ_KERNEL(name, ...) extern "C" void name(mpq::Problem);
MPQ_QUANTIZE_KERNELS(MPQ_KERNEL)
MPQ_GEMM_KERNELS(MPQ_KERNEL)
MPQ_SMALL_KERNELS(MPQ_KERNEL)
#undef MPQ_KERNEL

namespace {

enum Result {
  kSuccess = 0,
  kInvalidValue = 1,
  kNotInitialized = 3,
  kInvalidDevice = 101,
  kInvalidImage = 200,
  kInvalidContext = 201,
  kInvalidHandle = 400,
  kNotFound = 500,
};

struct Kernel {
  void (*function)(mpq::Problem);
  unsigned shared_bytes;
  int attributes_set;
};

std::map<std::string, Kernel> kernels = {
#define MPQ_KERNEL(name, ...) {#name, {name, 0, 0}},
    MPQ_QUANTIZE_KERNELS(MPQ_KERNEL) MPQ_GEMM_KERNELS(MPQ_KERNEL) MPQ_SMALL_KERNELS(MPQ_KERNEL)
#undef MPQ_KERNEL
};

struct Library {
  std::string code;
};

bool started = false;
int version = 13000;
std::string failing;
int failure = 0;
void* launched_on = nullptr;
int primary_context;
thread_local void* context = nullptr;

// What a function was told to return instead of doing its work, once.
int refusal(const char* function) {
  if (!started && std::strcmp(function, "cuInit") != 0) return kNotInitialized;
  if (failing != function) return kSuccess;
  failing.clear();
  return failure;
}

// The code's bytes; empty if it is neither a cubin nor PTX.
std::string image(const char* code) {
  if (std::memcmp(code, ELFMAG, SELFMAG) == 0) {
    Elf64_Ehdr header;
    std::memcpy(&header, code, sizeof(header));
    return std::string(code, header.e_shoff + size_t{header.e_shnum} * header.e_shentsize);
  }
  return std::strstr(code, ".version ") == nullptr ? std::string() : std::string(code);
}

bool holds(const std::string& code, const std::string& kernel) {
  const std::string in_cubin = ".text." + kernel, in_ptx = ".entry " + kernel + "(";
  return code.find(std::string(in_cubin.c_str(), in_cubin.size() + 1)) != std::string::npos ||
         code.find(in_ptx) != std::string::npos;
}

void run_kernel(const void* kernel, const void* argument) {
  static_cast<const Kernel*>(kernel)->function(*static_cast<const mpq::Problem*>(argument));
}

}  // namespace

#define REFUSE_IF_ASKED(function) \
  if (const int refused = refusal(function)) return refused

extern "C" {

int cuInit(unsigned flags) {
  REFUSE_IF_ASKED("cuInit");
  started = flags == 0;
  return started ? kSuccess : kInvalidValue;
}

int cuDriverGetVersion(int* to) {
  REFUSE_IF_ASKED("cuDriverGetVersion");
  *to = version;
  return kSuccess;
}

// Two GPUs.
int cuDeviceGetCount(int* to) {
  REFUSE_IF_ASKED("cuDeviceGetCount");
  *to = 2;
  return kSuccess;
}

int cuDeviceGet(int* to, int ordinal) {
  REFUSE_IF_ASKED("cuDeviceGet");
  *to = 40 + ordinal;
  return ordinal == 0 || ordinal == 1 ? kSuccess : kInvalidDevice;
}

int cuDeviceGetName(char* to, int size, int device) {
  REFUSE_IF_ASKED("cuDeviceGetName");
  std::strncpy(to, "Fake Ada", static_cast<size_t>(size));
  return device == 40 || device == 41 ? kSuccess : kInvalidDevice;
}

int cuDeviceGetAttribute(int* to, int attribute, int device) {
  REFUSE_IF_ASKED("cuDeviceGetAttribute");
  const std::map<int, int> values = {{16, 46}, {75, 8}, {76, 9}};
  if (device != 40 && device != 41) return kInvalidDevice;
  const auto found = values.find(attribute);
  if (found == values.end()) return kInvalidValue;
  *to = found->second;
  return kSuccess;
}

int cuDevicePrimaryCtxRetain(void** to, int device) {
  REFUSE_IF_ASKED("cuDevicePrimaryCtxRetain");
  *to = &primary_context;
  return device == 40 || device == 41 ? kSuccess : kInvalidDevice;
}

int cuCtxGetCurrent(void** to) {
  REFUSE_IF_ASKED("cuCtxGetCurrent");
  *to = context;
  return kSuccess;
}

int cuCtxSetCurrent(void* to) {
  REFUSE_IF_ASKED("cuCtxSetCurrent");
  context = to;
  return kSuccess;
}

int cuGetErrorName(int status, const char** to) {
  *to = status == kInvalidImage ? "CUDA_ERROR_INVALID_IMAGE" : "CUDA_ERROR";
  return kSuccess;
}

int cuGetErrorString(int status, const char** to) {
  *to = status == kInvalidImage ? "device kernel image is invalid" : nullptr;
  return *to == nullptr ? kInvalidValue : kSuccess;
}

int cuLibraryLoadData(void** to, const void* code, void* options, void* values, unsigned count,
                      void* library_options, void* library_values, unsigned library_count) {
  REFUSE_IF_ASKED("cuLibraryLoadData");
  if (options || values || count || library_options || library_values || library_count) {
    return kInvalidValue;
  }
  const std::string bytes = image(static_cast<const char*>(code));
  if (bytes.empty()) return kInvalidImage;
  *to = new Library{bytes};
  return kSuccess;
}

int cuLibraryGetKernel(void** to, void* library, const char* name) {
  REFUSE_IF_ASKED("cuLibraryGetKernel");
  const auto found = kernels.find(name);
  if (found == kernels.end() || !holds(static_cast<Library*>(library)->code, name)) {
    return kNotFound;
  }
  *to = &found->second;
  return kSuccess;
}

int cuKernelSetAttribute(int attribute, int value, void* kernel, int device) {
  REFUSE_IF_ASKED("cuKernelSetAttribute");
  if (attribute != 8 || value < 0 || value > 99 << 10) return kInvalidValue;
  if (device != 40 && device != 41) return kInvalidDevice;
  auto* its = static_cast<Kernel*>(kernel);
  its->shared_bytes = static_cast<unsigned>(value);
  ++its->attributes_set;
  return kSuccess;
}

int cuLaunchKernel(void* kernel, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned dy,
                   unsigned dz, unsigned shared_bytes, void* stream, void** parameters,
                   void** extra) {
  REFUSE_IF_ASKED("cuLaunchKernel");
  if (context == nullptr) return kInvalidContext;
  auto* its = static_cast<Kernel*>(kernel);
  bool known = false;
  for (const auto& one : kernels) known = known || &one.second == its;
  if (!known) return kInvalidHandle;
  constexpr unsigned kMaxSide = 65535, kMaxThreads = 1024;
  if (x == 0 || y == 0 || z == 0 || x > INT32_MAX || y > kMaxSide || z > kMaxSide) {
    return kInvalidValue;
  }
  if (threads == 0 || threads > kMaxThreads || dy != 1 || dz != 1 || extra != nullptr) {
    return kInvalidValue;
  }
  if (shared_bytes > its->shared_bytes) return kInvalidValue;
  launched_on = stream;
  mpq::Problem argument;
  std::memcpy(&argument, parameters[0], sizeof(argument));
  mpq::emulation::run({run_kernel, its, &argument}, dim3(x, y, z), dim3(threads), shared_bytes);
  return kSuccess;
}

// For tests.

void fake_driver_set_version(int to) { version = to; }

void fake_driver_fail(const char* function, int status) {
  failing = function;
  failure = status;
}

void* fake_driver_launched_on() { return launched_on; }

void fake_driver_drop_context() { context = nullptr; }

bool fake_driver_context_is_primary() { return context == &primary_context; }

// How often a kernel's attribute was set since the last time of asking.
int fake_driver_attributes_set(const char* kernel) {
  const int count = kernels.at(kernel).attributes_set;
  kernels.at(kernel).attributes_set = 0;
  return count;
}
}
