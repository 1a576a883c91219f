#include "device.h"

#ifdef MPQ_EMULATION

int32_t mpq::trt::current_multiprocessors() noexcept { return kUnknownMultiprocessors; }

#else

#include <cuda_runtime_api.h>

int32_t mpq::trt::current_multiprocessors() noexcept {
  int device = 0, count = 0;
  if (cudaGetDevice(&device) == cudaSuccess &&
      cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device) == cudaSuccess) {
    return count;
  }
  static_cast<void>(cudaGetLastError());  // or the next who asks would be told of it
  return kUnknownMultiprocessors;
}

#endif
