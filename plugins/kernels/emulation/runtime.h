// The part of CUDA's runtime that the library calls.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../include/mpq_kernels.h"
#include "device.h"

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorInvalidConfiguration = 9,
};

cudaError_t cudaLaunchKernel(const void* kernel, dim3 grid, dim3 block, void** arguments,
                             size_t shared_bytes, MpqStream stream);
struct cudaFuncAttributes {};
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* kernel);
// The last failure, which is forgotten.
cudaError_t cudaGetLastError();
const char* cudaGetErrorString(cudaError_t error);
