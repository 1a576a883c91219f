// What the AVX-512 kernels share with those that multiply by other means.
#pragma once

#include <immintrin.h>

#include "generic.h"

namespace mpq {
namespace avx512 {

bool supported();
void quantize_quad(const Quad& quad, const ActivationStep& step, int64_t rows, int64_t columns,
                   uint8_t* out, int64_t out_stride);
void quantize_rows(const float* x, const float* factor, const uint8_t* shift,
                   const ActivationStep& step, int64_t rows, int64_t columns, uint8_t* out,
                   int64_t out_stride);
void unpack(const RowPlanes* rows, int64_t count, int64_t bytes, int64_t blocks, int8_t* out);
void finish(const int32_t* acc, const RowEpilogue& epilogue, const Addends& addends, int64_t rows,
            int64_t count, float* y, int64_t row_stride);
void finish_turned(const int32_t* acc, const RowEpilogue& epilogue, const float* added,
                   int64_t rows, int64_t count, float* y, int64_t pixel_stride);
void transpose(const void* from, int64_t from_stride, int64_t rows, int64_t columns, void* to,
               int64_t to_stride);
void normalize_silu(const float* x, int64_t count, const ChannelNorm& norm, float* y);
int64_t spin_float(int64_t rounds);

namespace {

// As many of sixteen as there are.
inline __mmask16 first_lanes(int64_t count) {
  return count >= 16 ? static_cast<__mmask16>(0xffff) : static_cast<__mmask16>((1u << count) - 1u);
}

// Has no multiply, spin of integers and attention.
constexpr Kernels shared_kernels(const char* name, int64_t piece_products) {
  Kernels kernels = generic_kernels<0>(name, piece_products);
  kernels.supported = supported;
  kernels.quantize_quad = quantize_quad;
  kernels.quantize_rows = quantize_rows;
  kernels.unpack = unpack;
  kernels.finish = finish;
  kernels.finish_turned = finish_turned;
  kernels.transpose = transpose;
  kernels.normalize_silu = normalize_silu;
  kernels.spin_float = spin_float;
  return kernels;
}

}  // namespace
}  // namespace avx512
}  // namespace mpq
