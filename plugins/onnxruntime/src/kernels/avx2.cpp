// AVX2: products of 16-bit pairs, which never saturate (vpmaddubsw would, beyond 7-bit codes).
#include <immintrin.h>

#include "attention.h"
#include "x86_256.h"

namespace mpq {
namespace {

bool supported() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

// Columns (0, 2) and (1, 3) of every four as 16-bit pairs: 64 bytes of the former, 64 of the
// latter.
struct WidenedBlock {
  static constexpr int64_t kBytes = 2 * kBlockColumns;
  static void store(int8_t* out, __m256i low, __m256i high) {
    auto* to = reinterpret_cast<__m256i*>(out);
    _mm256_storeu_si256(to, _mm256_srai_epi16(_mm256_slli_epi16(low, 8), 8));
    _mm256_storeu_si256(to + 1, _mm256_srai_epi16(_mm256_slli_epi16(high, 8), 8));
    _mm256_storeu_si256(to + 2, _mm256_srai_epi16(low, 8));
    _mm256_storeu_si256(to + 3, _mm256_srai_epi16(high, 8));
  }
};

int64_t spin(int64_t rounds) {
  return spin_chains<8, 16>(rounds, _mm256_setzero_si256(), _mm256_set1_epi16(1),
                            [](__m256i sum, __m256i& codes, __m256i weights) {
                              touch(codes);  // else one product serves all chains
                              return _mm256_add_epi32(sum, _mm256_madd_epi16(codes, weights));
                            });
}

// Every loop over `sums` is unrolled: only then do they stay in registers.
struct Tile {
  static constexpr int64_t kTileRows = 4, kRowBytes = WidenedBlock::kBytes;

  static void multiply(const int8_t* weights, const Lines& lines, int64_t group, int64_t blocks,
                       int32_t* acc) {
    const __m256i even = _mm256_set1_epi16(255);
    __m256i sums[kTileRows][2];
#pragma GCC unroll 4
    for (auto& row : sums) row[0] = row[1] = _mm256_setzero_si256();
    for (int64_t block = 0; block < blocks; ++block) {
      const int8_t* w = weights + block * kRows * WidenedBlock::kBytes;
      const uint8_t* codes = lines.first[group] + lines.blocks[block];
      for (int64_t line = 0; line < kBlockLines; ++line, codes += lines.stride) {
        const __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes));
        const __m256i b = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes) + 1);
        const __m256i a_even = _mm256_and_si256(a, even), a_odd = _mm256_srli_epi16(a, 8);
        const __m256i b_even = _mm256_and_si256(b, even), b_odd = _mm256_srli_epi16(b, 8);
#pragma GCC unroll 4
        for (int64_t r = 0; r < kTileRows; ++r) {
          int32_t pair[2];
          memcpy(&pair[0], w + r * WidenedBlock::kBytes + 4 * line, 4);
          memcpy(&pair[1], w + r * WidenedBlock::kBytes + kBlockColumns + 4 * line, 4);
          const __m256i w_even = _mm256_set1_epi32(pair[0]), w_odd = _mm256_set1_epi32(pair[1]);
          sums[r][0] = _mm256_add_epi32(sums[r][0], _mm256_madd_epi16(a_even, w_even));
          sums[r][1] = _mm256_add_epi32(sums[r][1], _mm256_madd_epi16(b_even, w_even));
          sums[r][0] = _mm256_add_epi32(sums[r][0], _mm256_madd_epi16(a_odd, w_odd));
          sums[r][1] = _mm256_add_epi32(sums[r][1], _mm256_madd_epi16(b_odd, w_odd));
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
};

constexpr Kernels table() {
  Kernels kernels = generic_kernels<0>("avx2", int64_t{1} << 20);
  kernels.bytes_per_weight = 2;
  kernels.supported = supported;
  kernels.unpack = unpack_256<WidenedBlock>;
  kernels.multiply = multiply_by_tiles<Tile>;
  kernels.spin = spin;
  kernels.spin_float = spin_float_256;
  kernels.attention = &kAvx2Attention;
  return kernels;
}

}  // namespace

extern const Kernels kAvx2;
const Kernels kAvx2 = table();

}  // namespace mpq
