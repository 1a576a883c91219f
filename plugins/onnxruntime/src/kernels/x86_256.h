// What processors with 256-bit registers have in common.
#pragma once

#include <immintrin.h>

#include "generic.h"

namespace mpq {
namespace {

// 32 bits to 32 bytes, each 0 or 255.
inline __m256i spread_256(uint32_t bits) {
  const __m256i byte_of_lane = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2,
                                                2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3);
  const __m256i bit_of_lane = _mm256_set1_epi64x(static_cast<int64_t>(0x8040201008040201));
  const __m256i bytes =
      _mm256_shuffle_epi8(_mm256_set1_epi32(static_cast<int32_t>(bits)), byte_of_lane);
  return _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit_of_lane), bit_of_lane);
}

// Block::store writes 64 weights of a row as the products want them, Block::kBytes of them.
template <typename Block>
void unpack_256(const RowPlanes* rows, int64_t count, int64_t bytes, int64_t blocks, int8_t* out) {
  for (int64_t r = 0; r < count; ++r) {
    for (int64_t block = 0; block < blocks; ++block) {
      __m256i low = _mm256_set1_epi8(rows[r].offset), high = low;
      for (int p = 0; p < rows[r].count; ++p) {
        const uint64_t bits = block_bits(rows[r].bits[p], bytes, block);
        const __m256i step = _mm256_set1_epi8(rows[r].steps[p]);
        low = _mm256_add_epi8(low, _mm256_and_si256(spread_256(static_cast<uint32_t>(bits)), step));
        high = _mm256_add_epi8(
            high, _mm256_and_si256(spread_256(static_cast<uint32_t>(bits >> 32)), step));
      }
      Block::store(out + (block * kRows + rows[r].place) * Block::kBytes, low, high);
    }
  }
}

inline int64_t spin_float_256(int64_t rounds) {
  return spin_chains<12, 8>(rounds, _mm256_setzero_ps(), _mm256_set1_ps(1.0f),
                            [](__m256 sum, __m256 inputs, __m256 weights) {
                              return _mm256_fmadd_ps(inputs, weights, sum);
                            });
}

}  // namespace
}  // namespace mpq
