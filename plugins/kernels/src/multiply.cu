// The second launch: products, and outputs from their sums.
#include "gemm.h"
#include "kernels.h"
#include "small.h"

#define MPQ_KERNEL(name, pixels, tiles, widest)                                                   \
  extern "C" __global__ void __launch_bounds__(mpq::kGemmThreads, 2) name(const mpq::Problem p) { \
    mpq::gemm<pixels, tiles, widest>(p);                                                          \
  }
MPQ_GEMM_KERNELS(MPQ_KERNEL)
#undef MPQ_KERNEL

#define MPQ_KERNEL(name, pixels, widest)                                                       \
  extern "C" __global__ void __launch_bounds__(                                                \
      mpq::kSmallThreads, (mpq::kSmallResidents<pixels, widest>)) name(const mpq::Problem p) { \
    mpq::multiply_small<pixels, widest>(p);                                                    \
  }
MPQ_SMALL_KERNELS(MPQ_KERNEL)
#undef MPQ_KERNEL
