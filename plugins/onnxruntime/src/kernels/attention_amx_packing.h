// Queries, keys and values of a head as tiles of bfloat16. A float32 is the sum of two of these, to
// about 2^-17, and three products of the parts stand for one: those of queries and keys lie beside
// each other along the dimension that is summed over.
#pragma once

#include <immintrin.h>

#include "amx_tiles.h"
#include "attention.h"
#include "avx512.h"

namespace mpq {
namespace {

constexpr int64_t kPairKeys = 32;  // keys that one product of weights and values takes
constexpr int64_t kAhead = 16;     // tokens

inline int64_t padded(int64_t value, int64_t to) { return (value + to - 1) / to * to; }

// What is packed of one head.
struct Sizes {
  int64_t width, key_tiles, value_tiles, keys;

  Sizes(int64_t tokens, int64_t values)
      : width(values),
        key_tiles(padded(3 * values, 2 * kSide) / (2 * kSide)),
        value_tiles(padded(values + 1, kSide) / kSide),
        keys(padded(tokens, kPairKeys)) {}

  int64_t key_row() const { return key_tiles * kRowBytes; }
  int64_t pair_bytes() const { return value_tiles * 2 * kTileBytes; }
};

// x = high + low + a rest of less than 2^-17 x. Lanes are 16-bit patterns, 0 where there is none.
struct Parts {
  __m256i high, low;

  explicit Parts(__m512 x) {
    high = (__m256i)_mm512_cvtneps_pbh(x);
    const __m512i wide = _mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16);
    low = (__m256i)_mm512_cvtneps_pbh(_mm512_sub_ps(x, _mm512_castsi512_ps(wide)));
  }
};

// One token's values, times `scale`, as a row of tiles: three times its parts. Keys are (high, low,
// high), queries (high, high, low).
template <bool query>
void pack_row(const float* x, int64_t width, float scale, uint8_t* row, int64_t bytes) {
  auto* to = reinterpret_cast<uint16_t*>(row);
  for (int64_t d = 0; d < width; d += kSide) {
    const __mmask16 lanes = avx512::first_lanes(width - d);
    const Parts parts(_mm512_mul_ps(_mm512_maskz_loadu_ps(lanes, x + d), _mm512_set1_ps(scale)));
    _mm256_mask_storeu_epi16(to + d, lanes, parts.high);
    _mm256_mask_storeu_epi16(to + width + d, lanes, query ? parts.high : parts.low);
    _mm256_mask_storeu_epi16(to + 2 * width + d, lanes, query ? parts.low : parts.high);
  }
  memset(to + 3 * width, 0, static_cast<size_t>(bytes - 6 * width));
}

// Tokens lie far apart, which the processor does not foresee.
template <int write>
void prefetch(const float* token, int64_t width) {
  for (int64_t d = 0; d < width; d += kSide) __builtin_prefetch(token + d, write, 3);
  __builtin_prefetch(token + width - 1, write, 3);
}

// Tiles whose rows are sixteen keys.
inline void pack_keys(const AttentionHead& head, const Sizes& sizes, uint8_t* rows, uint8_t* to) {
  for (int64_t first = 0; first < sizes.keys; first += kSide) {
    for (int64_t i = 0; i < kSide; ++i) {
      const int64_t key = first + i;
      const float* const x = head.key + key * head.stride;
      if (key + kAhead < head.keys) prefetch<0>(x + kAhead * head.stride, head.width);
      uint8_t* const row = rows + i * sizes.key_row();
      if (key < head.keys)
        pack_row<false>(x, head.width, 1.0f, row, sizes.key_row());
      else
        memset(row, 0, static_cast<size_t>(sizes.key_row()));
    }
    for (int64_t t = 0; t < sizes.key_tiles; ++t, to += kTileBytes)
      for (int64_t i = 0; i < kSide; ++i)
        _mm512_store_si512(to + i * kRowBytes,
                           _mm512_load_si512(rows + i * sizes.key_row() + t * kRowBytes));
  }
}

// For 32 keys and 16 of a token's values, two tiles: high and low parts, a value a row.
inline void pack_values(const AttentionHead& head, const Sizes& sizes, uint8_t* to) {
  alignas(64) uint32_t high[kSide * kSide], low[kSide * kSide];
  for (int64_t key = 0; key < sizes.keys; key += kPairKeys) {
    for (int64_t next = key + kPairKeys; next < key + 2 * kPairKeys && next < head.keys; ++next)
      prefetch<0>(head.value + next * head.stride, head.width);
    for (int64_t tile = 0; tile < sizes.value_tiles; ++tile, to += 2 * kTileBytes) {
      const int64_t first = tile * kSide;
      const __mmask16 lanes = avx512::first_lanes(head.width - first);
      // The row below the last of the values is 1.
      const __m512 rest =
          _mm512_maskz_mov_ps(static_cast<__mmask16>(lanes + 1u), _mm512_set1_ps(1));
      const auto parts_of = [&](int64_t token) {
        if (token >= head.keys) return Parts(_mm512_setzero_ps());
        return Parts(_mm512_mask_loadu_ps(rest, lanes, head.value + token * head.stride + first));
      };
      for (int64_t i = 0; i < kSide; ++i) {
        const Parts even = parts_of(key + 2 * i), odd = parts_of(key + 2 * i + 1);
        const auto pairs = [](__m256i a, __m256i b) {
          return _mm512_or_si512(_mm512_cvtepu16_epi32(a),
                                 _mm512_slli_epi32(_mm512_cvtepu16_epi32(b), 16));
        };
        _mm512_store_si512(high + i * kSide, pairs(even.high, odd.high));
        _mm512_store_si512(low + i * kSide, pairs(even.low, odd.low));
      }
      avx512::transpose(high, kSide, kSide, kSide, to, kSide);
      avx512::transpose(low, kSide, kSide, kSide, to + kTileBytes, kSide);
    }
  }
}

// Tiles whose columns are up to sixteen queries, scaled so that scores are powers of two.
inline void pack_queries(const AttentionHead& head, int64_t first, int64_t count,
                         const Sizes& sizes, uint8_t* rows, uint8_t* to) {
  for (int64_t q = 0; q < kSide; ++q) {
    uint8_t* row = rows + q * sizes.key_row();
    if (q < count)
      pack_row<true>(head.query + (first + q) * head.stride, head.width, head.scale * kLog2E, row,
                     sizes.key_row());
    else
      memset(row, 0, static_cast<size_t>(sizes.key_row()));
  }
  avx512::transpose(rows, sizes.key_row() / 4, kSide, sizes.key_row() / 4, to, kSide);
}

}  // namespace
}  // namespace mpq
