// AVX-VNNI: 256-bit products of unsigned by signed bytes, for processors without AVX-512.
#include <cpuid.h>
#include <immintrin.h>

#include "x86_256.h"

namespace mpq {
namespace {

bool supported() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (!__builtin_cpu_supports("avx2")) return false;
  return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 && (eax & (1u << 4)) != 0;
}

struct Block {
  static constexpr int64_t kBytes = kBlockColumns;
  static void store(int8_t* out, __m256i low, __m256i high) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), low);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out) + 1, high);
  }
};

constexpr int64_t kTileRows = 4;

int64_t spin(int64_t rounds) {
  constexpr int64_t kChains = 12, kProducts = 32;
  __m256i codes = _mm256_set1_epi8(1), weights = _mm256_set1_epi8(1);
  __m256i sums[kChains];
#pragma GCC unroll 12
  for (__m256i& sum : sums) sum = _mm256_setzero_si256();
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 12
    for (__m256i& sum : sums) {
      sum = _mm256_dpbusd_avx_epi32(sum, codes, weights);
      touch(sum);
    }
  }
  touch(codes);
  touch(weights);
  return rounds * kChains * kProducts;
}

// Every loop over `sums` is unrolled: only then do they stay in registers.
void multiply_tile(const int8_t* weights, const Lines& lines, int64_t group, int64_t blocks,
                   int32_t* acc) {
  __m256i sums[kTileRows][2];
#pragma GCC unroll 4
  for (auto& row : sums) row[0] = row[1] = _mm256_setzero_si256();
  for (int64_t block = 0; block < blocks; ++block) {
    const int8_t* w = weights + block * kRows * kBlockColumns;
    const uint8_t* codes = lines.first[group] + lines.blocks[block];
    for (int64_t line = 0; line < kBlockLines; ++line, codes += lines.stride) {
      const __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes));
      const __m256i b = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes) + 1);
#pragma GCC unroll 4
      for (int64_t r = 0; r < kTileRows; ++r) {
        int32_t four;
        memcpy(&four, w + r * kBlockColumns + 4 * line, 4);
        sums[r][0] = _mm256_dpbusd_avx_epi32(sums[r][0], a, _mm256_set1_epi32(four));
        sums[r][1] = _mm256_dpbusd_avx_epi32(sums[r][1], b, _mm256_set1_epi32(four));
      }
    }
  }
#pragma GCC unroll 4
  for (int64_t r = 0; r < kTileRows; ++r) {
    auto* to = reinterpret_cast<__m256i*>(acc + r * kPixels);
    _mm256_storeu_si256(to, sums[r][0]);
    _mm256_storeu_si256(to + 1, sums[r][1]);
  }
}

void multiply(const int8_t* weights, const Lines& lines, int64_t blocks, int64_t count,
              int32_t* acc) {
  for (int64_t g = 0; g < count; ++g)
    for (int64_t r = 0; r < kRows; r += kTileRows)
      multiply_tile(weights + r * kBlockColumns, lines, g, blocks,
                    acc + g * kGroupSums + r * kPixels);
}

}  // namespace

extern const Kernels kAvxVnni;
const Kernels kAvxVnni = {
    "avxvnni",
    0,
    1,
    1,
    int64_t{1} << 21,
    supported,
    nothing,
    nothing,
    generic_quantize_quad<0>,
    generic_quantize_row<0>,
    unpack_256<Block>,
    multiply,
    generic_finish,
    spin,
    generic_transpose,
    generic_moments,
    generic_normalize,
    generic_normalize_silu,
};

}  // namespace mpq
