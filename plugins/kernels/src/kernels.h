// The kernels there are, by their names in compiled code, and what each takes of a thread block.
// Each has one argument, a Problem.
#pragma once

#include "problem.h"

// KERNEL(name, whether x is float16)
#define MPQ_QUANTIZE_KERNELS(KERNEL)  \
  KERNEL(mpq_quantize_float32, false) \
  KERNEL(mpq_quantize_float16, true)

// KERNEL(name, pixels and tiles of a thread block, planes of the widest tile)
#define MPQ_GEMM_KERNELS(KERNEL)      \
  KERNEL(mpq_gemm_128_4_5, 128, 4, 5) \
  KERNEL(mpq_gemm_128_2_5, 128, 2, 5) \
  KERNEL(mpq_gemm_64_4_8, 64, 4, 8)

// KERNEL(name, pixels of a thread block, planes of the widest tile)
#define MPQ_SMALL_KERNELS(KERNEL) \
  KERNEL(mpq_small_8_5, 8, 5)     \
  KERNEL(mpq_small_8_8, 8, 8)     \
  KERNEL(mpq_small_16_5, 16, 5)   \
  KERNEL(mpq_small_16_8, 16, 8)   \
  KERNEL(mpq_small_32_5, 32, 5)   \
  KERNEL(mpq_small_32_8, 32, 8)

namespace mpq {

constexpr int kQuantizeThreads = 256;

constexpr int kGemmWarps = 4;
constexpr int kGemmThreads = 32 * kGemmWarps;
constexpr int kStages = 3;  // of activations in shared memory, each a row of columns per pixel

constexpr int kSmallWarps = 8;
constexpr int kSmallThreads = 32 * kSmallWarps;

}  // namespace mpq
