// Launches by the CUDA runtime, to which compiled code makes its kernels known by itself.
#include <cstring>

#include "kernels.h"

#ifdef MPQ_EMULATION
#include "../emulation/runtime.h"
#else
#include <cuda_runtime_api.h>
#endif

#define MPQ_KERNEL(name, ...) extern "C" void name(mpq::Problem);
MPQ_QUANTIZE_KERNELS(MPQ_KERNEL)
MPQ_GEMM_KERNELS(MPQ_KERNEL)
MPQ_SMALL_KERNELS(MPQ_KERNEL)
#undef MPQ_KERNEL

namespace {

struct Kernel {
  const char* name;
  void (*function)(mpq::Problem);
};

constexpr Kernel kKernels[] = {
#define MPQ_KERNEL(name, ...) {#name, name},
    MPQ_QUANTIZE_KERNELS(MPQ_KERNEL) MPQ_GEMM_KERNELS(MPQ_KERNEL) MPQ_SMALL_KERNELS(MPQ_KERNEL)
#undef MPQ_KERNEL
};

// The runtime remembers a failure for whoever asks next, who may be anyone; it is said here.
int said(cudaError_t status) {
  if (status != cudaSuccess) static_cast<void>(cudaGetLastError());
  return static_cast<int>(status);
}

int launch(MpqLaunch& planned, MpqStream stream) {
  const Kernel* kernel = kKernels;
  while (std::strcmp(kernel->name, planned.kernel) != 0) ++kernel;
  void* arguments[] = {planned.argument};
  const dim3 grid(planned.grid[0], planned.grid[1], planned.grid[2]);
  return said(cudaLaunchKernel(reinterpret_cast<const void*>(kernel->function), grid,
                               dim3(planned.threads), arguments, planned.shared_bytes, stream));
}

}  // namespace

int mpq_quantize(const MpqLayer* layer, const MpqCall* call, MpqStream stream) {
  MpqLaunch planned;
  const int status = mpq_plan_quantize(layer, call, &planned);
  return status != MPQ_OK ? status : launch(planned, stream);
}

int mpq_multiply(const MpqLayer* layer, const MpqCall* call, MpqStream stream) {
  MpqLaunch planned;
  const int status = mpq_plan_multiply(layer, call, &planned);
  return status != MPQ_OK ? status : launch(planned, stream);
}

int mpq_ready(void) {
  cudaFuncAttributes attributes;
  return said(
      cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(kKernels[0].function)));
}

const char* mpq_status_text(int status) {
  return status > 0 ? cudaGetErrorString(static_cast<cudaError_t>(status))
                    : mpq_plan_status_text(status);
}
