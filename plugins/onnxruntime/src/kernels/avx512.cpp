// AVX-512 with VNNI. A plane is a mask: one masked add unpacks it for 64 weights.
#include "avx512.h"

#include <immintrin.h>

#include "generic.h"

namespace mpq {
namespace avx512 {

bool supported() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vnni");
}

namespace {

// (x * factor) / scale, rounded half to even, as it is after the clamp to codes. The contract
// divides; here the quotient is a product with the reciprocal, and only where that lies so near a
// tie that its error could matter is it divided. Within the codes (|q| <= 512, beyond them all
// values saturate alike) product and quotient differ by less than 2 ulp of q, 2^-13; the guard is
// 2^-10.
class Rounder {
 public:
  explicit Rounder(const ActivationStep& step)
      : scale_(_mm512_set1_ps(step.scale)),
        zero_point_(_mm512_set1_ps(step.zero_point)),
        top_(_mm512_set1_ps(step.top)),
        // Outside these bounds the reciprocal is no normal number, or products with it are not.
        divide_(!(step.scale > 0x1p-60f && step.scale < 0x1p60f)),
        reciprocal_(_mm512_set1_ps(1.0f / step.scale)) {}

  __m512i codes(__m512 x, __m512 factor) const {
    const __m512 scaled = _mm512_mul_ps(x, factor);
    __m512 value = _mm512_mul_ps(scaled, reciprocal_);
    __m512 rounded = _mm512_roundscale_ps(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m512 distance = _mm512_abs_ps(_mm512_sub_ps(value, rounded));
    const __mmask16 near =
        _mm512_cmp_ps_mask(distance, _mm512_set1_ps(0.5f - 0x1p-10f), _CMP_NLT_UQ);
    if (__builtin_expect(divide_ || near != 0, 0)) {
      value = _mm512_div_ps(scaled, scale_);
      rounded = _mm512_roundscale_ps(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    }
    // The order of the operands makes a NaN 0.
    const __m512 moved = _mm512_add_ps(rounded, zero_point_);
    const __m512 code = _mm512_min_ps(_mm512_max_ps(moved, _mm512_setzero_ps()), top_);
    return _mm512_cvttps_epi32(code);
  }

 private:
  __m512 scale_, zero_point_, top_;
  bool divide_;
  __m512 reciprocal_;
};

__mmask16 first_lanes(int64_t count) {
  return count >= 16 ? static_cast<__mmask16>(0xffff) : static_cast<__mmask16>((1u << count) - 1u);
}

}  // namespace

void quantize_channels(const float* const x[4], const float factor[4], const uint8_t shift[4],
                       const ActivationStep& step, int64_t count, uint8_t* out) {
  const Rounder rounder(step);
  for (int64_t first = 0; first < count; first += 16) {
    const __mmask16 lanes = first_lanes(count - first);
    __m512i words = _mm512_setzero_si512();
    for (int channel = 0; channel < 4; ++channel) {
      if (x[channel] == nullptr) continue;
      const __m512 values = _mm512_maskz_loadu_ps(lanes, x[channel] + first);
      const __m512i codes = rounder.codes(values, _mm512_set1_ps(factor[channel]));
      const auto by = _mm_cvtsi32_si128(shift[channel] + 8 * channel);
      words = _mm512_or_si512(words, _mm512_sll_epi32(codes, by));
    }
    _mm512_mask_storeu_epi32(out + 4 * first, lanes, words);
  }
}

void quantize_row(const float* x, const float* factor, const uint8_t* shift,
                  const ActivationStep& step, int64_t count, uint8_t* out) {
  const Rounder rounder(step);
  for (int64_t first = 0; first < count; first += 16) {
    const __mmask16 lanes = first_lanes(count - first);
    const __m512i codes = rounder.codes(_mm512_maskz_loadu_ps(lanes, x + first),
                                        _mm512_maskz_loadu_ps(lanes, factor + first));
    const __m512i by = _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(lanes, shift + first));
    _mm512_mask_cvtepi32_storeu_epi8(out + first, lanes, _mm512_sllv_epi32(codes, by));
  }
}

namespace {

template <int planes>
void unpack_row(const RowPlanes& row, int64_t bytes, int64_t blocks, int8_t* out) {
  const __m512i offset = _mm512_set1_epi8(row.offset);
  __m512i steps[planes];
  for (int p = 0; p < planes; ++p) steps[p] = _mm512_set1_epi8(row.steps[p]);
  const int64_t whole = bytes / 8;
  for (int64_t block = 0; block < blocks; ++block, out += kRows * kBlockColumns) {
    __m512i weights = offset;
    for (int p = 0; p < planes; ++p) {
      uint64_t mask;
      if (block < whole)
        memcpy(&mask, row.bits[p] + 8 * block, 8);
      else
        mask = block_bits(row.bits[p], bytes, block);
      weights = _mm512_mask_add_epi8(weights, mask, weights, steps[p]);
    }
    _mm512_storeu_si512(out, weights);
  }
}

}  // namespace

void unpack(const RowPlanes* rows, int64_t count, int64_t bytes, int64_t blocks, int8_t* out) {
  using UnpackRow = void (*)(const RowPlanes&, int64_t, int64_t, int8_t*);
  static constexpr UnpackRow kByPlanes[kMaxPlanes] = {unpack_row<1>, unpack_row<2>, unpack_row<3>,
                                                      unpack_row<4>, unpack_row<5>, unpack_row<6>,
                                                      unpack_row<7>, unpack_row<8>};
  for (int64_t r = 0; r < count; ++r)
    kByPlanes[rows[r].count - 1](rows[r], bytes, blocks, out + r * kBlockColumns);
}

void finish(const int32_t* acc, const RowEpilogue& epilogue, int64_t rows, int64_t count,
            float* const* y) {
  const __mmask16 lanes = first_lanes(count);
  for (int64_t r = 0; r < rows; ++r) {
    const __m512i sums = _mm512_sub_epi32(_mm512_loadu_si512(acc + r * kPixels),
                                          _mm512_set1_epi32(epilogue.correction[r]));
    const __m512 product =
        _mm512_mul_ps(_mm512_cvtepi32_ps(sums), _mm512_set1_ps(epilogue.scale[r]));
    _mm512_mask_storeu_ps(y[r], lanes, _mm512_add_ps(product, _mm512_set1_ps(epilogue.bias[r])));
  }
}

namespace {

// Sixteen registers of sixteen values, turned: pairs of values, pairs of pairs, then quarters.
void transpose_tile(__m512i v[16]) {
  __m512i pairs[16];
  for (int i = 0; i < 16; i += 2) {
    pairs[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
    pairs[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    v[i] = _mm512_unpacklo_epi64(pairs[i], pairs[i + 2]);
    v[i + 1] = _mm512_unpackhi_epi64(pairs[i], pairs[i + 2]);
    v[i + 2] = _mm512_unpacklo_epi64(pairs[i + 1], pairs[i + 3]);
    v[i + 3] = _mm512_unpackhi_epi64(pairs[i + 1], pairs[i + 3]);
  }
  // v[4 a + b]: column 4 q + b of rows 4 a .. 4 a + 3 in quarter q.
  for (int b = 0; b < 4; ++b) {
    const __m512i even_low = _mm512_shuffle_i32x4(v[b], v[4 + b], 0x88);
    const __m512i odd_low = _mm512_shuffle_i32x4(v[b], v[4 + b], 0xdd);
    const __m512i even_high = _mm512_shuffle_i32x4(v[8 + b], v[12 + b], 0x88);
    const __m512i odd_high = _mm512_shuffle_i32x4(v[8 + b], v[12 + b], 0xdd);
    pairs[b] = _mm512_shuffle_i32x4(even_low, even_high, 0x88);
    pairs[8 + b] = _mm512_shuffle_i32x4(even_low, even_high, 0xdd);
    pairs[4 + b] = _mm512_shuffle_i32x4(odd_low, odd_high, 0x88);
    pairs[12 + b] = _mm512_shuffle_i32x4(odd_low, odd_high, 0xdd);
  }
  for (int i = 0; i < 16; ++i) v[i] = pairs[i];
}

}  // namespace

void transpose(const void* from, int64_t from_stride, int64_t rows, int64_t columns, void* to,
               int64_t to_stride) {
  const auto* source = static_cast<const uint32_t*>(from);
  auto* target = static_cast<uint32_t*>(to);
  for (int64_t row = 0; row < rows; row += 16) {
    const __mmask16 row_lanes = first_lanes(rows - row);
    for (int64_t column = 0; column < columns; column += 16) {
      const __mmask16 lanes = first_lanes(columns - column);
      __m512i values[16];
      for (int64_t i = 0; i < 16; ++i)
        values[i] = row + i < rows
                        ? _mm512_maskz_loadu_epi32(lanes, source + (row + i) * from_stride + column)
                        : _mm512_setzero_si512();
      transpose_tile(values);
      for (int64_t i = 0; i < 16 && column + i < columns; ++i)
        _mm512_mask_storeu_epi32(target + (column + i) * to_stride + row, row_lanes, values[i]);
    }
  }
}

Moments moments(const float* x, int64_t count, float pivot) {
  return generic_moments(x, count, pivot);
}

void normalize(const float* x, int64_t count, const ChannelNorm& norm, float* y) {
  generic_normalize(x, count, norm, y);
}

void normalize_silu(const float* x, int64_t count, const ChannelNorm& norm, float* y) {
  generic_normalize_silu(x, count, norm, y);
}

namespace {

constexpr int64_t kTileRows = 8;

int64_t spin(int64_t rounds) {
  constexpr int64_t kChains = 20, kProducts = 64;
  __m512i codes = _mm512_set1_epi8(1), weights = _mm512_set1_epi8(1);
  __m512i sums[kChains];
#pragma GCC unroll 20
  for (__m512i& sum : sums) sum = _mm512_setzero_si512();
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 20
    for (__m512i& sum : sums) {
      sum = _mm512_dpbusd_epi32(sum, codes, weights);
      touch(sum);
    }
  }
  touch(codes);
  touch(weights);
  return rounds * kChains * kProducts;
}

// Every loop over `sums` is unrolled: only then do they stay in registers.
template <int groups>
void multiply_tile(const int8_t* weights, const Lines& lines, int64_t blocks, int32_t* acc) {
  __m512i sums[kTileRows][groups];
#pragma GCC unroll 8
  for (int64_t r = 0; r < kTileRows; ++r)
#pragma GCC unroll 4
    for (int g = 0; g < groups; ++g) sums[r][g] = _mm512_setzero_si512();
  for (int64_t block = 0; block < blocks; ++block) {
    const int8_t* w = weights + block * kRows * kBlockColumns;
    const uint8_t* from[groups];
#pragma GCC unroll 4
    for (int g = 0; g < groups; ++g) from[g] = lines.first[g] + lines.blocks[block];
    for (int64_t line = 0; line < kBlockLines; ++line, w += 4) {
      __m512i codes[groups];
#pragma GCC unroll 4
      for (int g = 0; g < groups; ++g) codes[g] = _mm512_loadu_si512(from[g] + line * lines.stride);
#pragma GCC unroll 8
      for (int64_t r = 0; r < kTileRows; ++r) {
        int32_t four;
        memcpy(&four, w + r * kBlockColumns, 4);
        const __m512i broadcast = _mm512_set1_epi32(four);
#pragma GCC unroll 4
        for (int g = 0; g < groups; ++g)
          sums[r][g] = _mm512_dpbusd_epi32(sums[r][g], codes[g], broadcast);
      }
    }
  }
#pragma GCC unroll 8
  for (int64_t r = 0; r < kTileRows; ++r)
#pragma GCC unroll 4
    for (int g = 0; g < groups; ++g)
      _mm512_storeu_si512(acc + g * kGroupSums + r * kPixels, sums[r][g]);
}

void multiply(const int8_t* weights, const Lines& lines, int64_t blocks, int64_t count,
              int32_t* acc) {
  using Tile = void (*)(const int8_t*, const Lines&, int64_t, int32_t*);
  static constexpr Tile kByGroups[] = {multiply_tile<1>, multiply_tile<2>, multiply_tile<3>};
  for (int64_t r = 0; r < kRows; r += kTileRows)
    kByGroups[count - 1](weights + r * kBlockColumns, lines, blocks, acc + r * kPixels);
}

}  // namespace
}  // namespace avx512

extern const Kernels kAvx512Vnni;
const Kernels kAvx512Vnni = {
    "avx512vnni",
    0,
    1,
    3,
    int64_t{1} << 22,
    avx512::supported,
    nothing,
    nothing,
    avx512::quantize_channels,
    avx512::quantize_row,
    avx512::unpack,
    avx512::multiply,
    avx512::finish,
    avx512::spin,
    avx512::transpose,
    avx512::moments,
    avx512::normalize,
    avx512::normalize_silu,
};

}  // namespace mpq
