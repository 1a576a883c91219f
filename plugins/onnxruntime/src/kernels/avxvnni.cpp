// AVX-VNNI: 256-bit products of unsigned by signed bytes, for processors without AVX-512.
#include <cpuid.h>
#include <immintrin.h>

#include "attention.h"
#include "x86_256.h"

namespace mpq {
namespace {

bool supported() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return false;
  return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 && (eax & (1u << 4)) != 0;
}

struct Block {
  static constexpr int64_t kBytes = kBlockColumns;
  static void store(int8_t* out, __m256i low, __m256i high) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), low);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out) + 1, high);
  }
};

int64_t spin(int64_t rounds) {
  return spin_chains<12, 32>(rounds, _mm256_setzero_si256(), _mm256_set1_epi8(1),
                             [](__m256i sum, __m256i codes, __m256i weights) {
                               return _mm256_dpbusd_avx_epi32(sum, codes, weights);
                             });
}

// Every loop over `sums` is unrolled: only then do they stay in registers.
struct Tile {
  static constexpr int64_t kTileRows = 4, kRowBytes = Block::kBytes;

  static void multiply(const int8_t* weights, const Lines& lines, int64_t group, int64_t blocks,
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
};

constexpr Kernels table() {
  Kernels kernels = generic_kernels<0>("avxvnni", int64_t{1} << 21);
  kernels.supported = supported;
  kernels.unpack = unpack_256<Block>;
  kernels.multiply = multiply_by_tiles<Tile>;
  kernels.spin = spin;
  kernels.spin_float = spin_float_256;
  kernels.attention = &kAvx2Attention;
  return kernels;
}

}  // namespace

extern const Kernels kAvxVnni;
const Kernels kAvxVnni = table();

}  // namespace mpq
