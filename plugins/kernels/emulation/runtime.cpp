#include "runtime.h"

#include "../src/problem.h"

namespace {

cudaError_t last_error = cudaSuccess;
cudaError_t next_launch = cudaSuccess;

// What CUDA says of a launch that no GPU takes without being asked for more.
cudaError_t verdict(dim3 grid, dim3 block, size_t shared_bytes) {
  constexpr unsigned kMaxSide = 65535, kMaxThreads = 1024;
  if (next_launch != cudaSuccess) return next_launch;
  if (shared_bytes > size_t{48} << 10) return cudaErrorInvalidValue;
  const bool fits = grid.x <= INT32_MAX && grid.y <= kMaxSide && grid.z <= kMaxSide;
  const bool some = grid.x > 0 && grid.y > 0 && grid.z > 0 && block.x > 0;
  return fits && some && block.x <= kMaxThreads ? cudaSuccess : cudaErrorInvalidConfiguration;
}

void run_kernel(const void* kernel, const void* argument) {
  if (kernel == nullptr) return;
  reinterpret_cast<void (*)(mpq::Problem)>(const_cast<void*>(kernel))(
      *static_cast<const mpq::Problem*>(argument));
}

}  // namespace

cudaError_t cudaLaunchKernel(const void* kernel, dim3 grid, dim3 block, void** arguments,
                             size_t shared_bytes, MpqStream) {
  const cudaError_t refusal = verdict(grid, block, shared_bytes);
  next_launch = cudaSuccess;
  if (refusal == cudaSuccess) {
    mpq::emulation::run({run_kernel, kernel, *arguments}, grid, block, shared_bytes);
  } else {
    last_error = refusal;
  }
  return refusal;
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes*, const void*) {
  const cudaError_t refusal = next_launch;
  next_launch = cudaSuccess;
  if (refusal != cudaSuccess) last_error = refusal;
  return refusal;
}

cudaError_t cudaGetLastError() {
  const cudaError_t error = last_error;
  last_error = cudaSuccess;
  return error;
}

const char* cudaGetErrorString(cudaError_t error) {
  switch (static_cast<int>(error)) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    default:
      return "unrecognized error code";
  }
}

// For tests.
extern "C" {

// Of a kernel that does nothing.
int mpq_emulation_launch(uint32_t x, uint32_t y, uint32_t z, int threads, size_t shared_bytes) {
  void* arguments[] = {nullptr};
  return cudaLaunchKernel(nullptr, dim3(x, y, z), dim3(static_cast<unsigned>(threads)), arguments,
                          shared_bytes, nullptr);
}

// The next launch, or question for a kernel, fails so.
void mpq_emulation_fail(int error) { next_launch = static_cast<cudaError_t>(error); }

int mpq_emulation_last_error() { return cudaGetLastError(); }
}
