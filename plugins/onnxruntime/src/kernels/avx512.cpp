// AVX-512 with VNNI. A plane is a mask: one masked add unpacks it for 64 weights.
#include "avx512.h"

#include <immintrin.h>

#include "attention.h"

namespace mpq {
namespace avx512 {

bool supported() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vnni");
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
    kByPlanes[rows[r].count - 1](rows[r], bytes, blocks, out + rows[r].place * kBlockColumns);
}

namespace {

__m512 finished(const int32_t* acc, const RowEpilogue& epilogue, int64_t r) {
  const __m512i sums = _mm512_sub_epi32(_mm512_loadu_si512(acc + r * kPixels),
                                        _mm512_set1_epi32(epilogue.correction[r]));
  const __m512 product = _mm512_mul_ps(_mm512_cvtepi32_ps(sums), _mm512_set1_ps(epilogue.scale[r]));
  return _mm512_add_ps(product, _mm512_set1_ps(epilogue.bias[r]));
}

}  // namespace

void finish(const int32_t* acc, const RowEpilogue& epilogue, const Addends& addends, int64_t rows,
            int64_t count, float* y, int64_t row_stride) {
  const __mmask16 lanes = first_lanes(count);
  const auto store = [&](const auto& added) {
    for (int64_t r = 0; r < rows; ++r)
      _mm512_mask_storeu_ps(y + r * row_stride, lanes, added(finished(acc, epilogue, r), r));
  };
  const float* const first = addends.first;
  if (first == nullptr) {
    store([](__m512 output, int64_t) { return output; });
  } else if (addends.per_pixel) {
    store([&](__m512 output, int64_t r) {
      return _mm512_add_ps(output, _mm512_maskz_loadu_ps(lanes, first + r * row_stride));
    });
  } else {
    store(
        [&](__m512 output, int64_t r) { return _mm512_add_ps(output, _mm512_set1_ps(first[r])); });
  }
}

namespace {

// Sixteen registers of sixteen values, turned: pairs of values, pairs of pairs, then quarters.
inline __attribute__((always_inline)) void transpose_tile(__m512i v[16]) {
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

// Outputs as they lie in a tile, and what is added to them.
__m512i plus(__m512i outputs, __m512 added) {
  return _mm512_castps_si512(_mm512_add_ps(_mm512_castsi512_ps(outputs), added));
}

}  // namespace

void finish_turned(const int32_t* acc, const RowEpilogue& epilogue, const float* added,
                   int64_t rows, int64_t count, float* y, int64_t pixel_stride) {
  for (int64_t first = 0; first < rows; first += 16) {
    __m512i tile[16];
    if (rows - first >= 16 && count == 16) {
#pragma GCC unroll 16
      for (int64_t r = 0; r < 16; ++r)
        tile[r] = _mm512_castps_si512(finished(acc, epilogue, first + r));
      transpose_tile(tile);
      if (added != nullptr) {
#pragma GCC unroll 16
        for (int64_t i = 0; i < 16; ++i)
          tile[i] = plus(tile[i], _mm512_loadu_ps(added + i * pixel_stride + first));
      }
#pragma GCC unroll 16
      for (int64_t i = 0; i < 16; ++i) _mm512_storeu_si512(y + i * pixel_stride + first, tile[i]);
      continue;
    }
    const __mmask16 lanes = first_lanes(rows - first);
    for (int64_t r = 0; r < 16; ++r)
      tile[r] = first + r < rows ? _mm512_castps_si512(finished(acc, epilogue, first + r))
                                 : _mm512_setzero_si512();
    transpose_tile(tile);
    for (int64_t i = 0; i < 16 && i < count; ++i) {
      const int64_t place = i * pixel_stride + first;
      if (added != nullptr) tile[i] = plus(tile[i], _mm512_maskz_loadu_ps(lanes, added + place));
      _mm512_mask_storeu_epi32(y + place, lanes, tile[i]);
    }
  }
}

void transpose(const void* from, int64_t from_stride, int64_t rows, int64_t columns, void* to,
               int64_t to_stride) {
  const auto* source = static_cast<const uint32_t*>(from);
  auto* target = static_cast<uint32_t*>(to);
  // Sixteen rows of `to` from left to right: stores that jump from row to row wait for memory.
  for (int64_t column = 0; column < columns; column += 16) {
    const __mmask16 lanes = first_lanes(columns - column);
    for (int64_t row = 0; row < rows; row += 16) {
      const __mmask16 row_lanes = first_lanes(rows - row);
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

namespace {

// value * sigmoid(value), to a few units in the last place; 0 below -88, where it is less than
// 1e-36. exp2 of the rest, within half of 0, is a polynomial of least error; the reciprocal is an
// estimate improved once.
__m512 silu(__m512 value) {
  constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  const __m512 one = _mm512_set1_ps(1.0f);
  const __m512 least = _mm512_set1_ps(-88.0f), most = _mm512_set1_ps(88.0f);
  // Negative log2(e), as the sum of two: a rounded product would be off by its own last place.
  const __m512 high = _mm512_set1_ps(-1.44269504f), low = _mm512_set1_ps(-1.92596303e-8f);
  const __m512 clamped = _mm512_min_ps(_mm512_max_ps(value, least), most);
  const __m512 whole = _mm512_roundscale_ps(_mm512_mul_ps(clamped, high), kNearest);
  const __m512 rest = _mm512_fmadd_ps(clamped, low, _mm512_fmsub_ps(clamped, high, whole));
  __m512 power = _mm512_set1_ps(1.53458118e-4f);
  for (const float coefficient :
       {1.33999312e-3f, 9.61848896e-3f, 5.55032878e-2f, 2.40226469e-1f, 6.93147206e-1f, 1.0f})
    power = _mm512_fmadd_ps(power, rest, _mm512_set1_ps(coefficient));
  const __m512 gate = _mm512_add_ps(one, _mm512_scalef_ps(power, whole));
  const __m512 estimate = _mm512_rcp14_ps(gate);
  const __m512 error = _mm512_fnmadd_ps(gate, estimate, one);
  const __mmask16 counts = _mm512_cmp_ps_mask(value, least, _CMP_NLT_UQ);
  return _mm512_maskz_mul_ps(counts, value, _mm512_fmadd_ps(estimate, error, estimate));
}

}  // namespace

void normalize_silu(const float* x, int64_t count, const ChannelNorm& norm, float* y) {
  const __m512 mean = _mm512_set1_ps(norm.mean), factor = _mm512_set1_ps(norm.factor);
  const __m512 bias = _mm512_set1_ps(norm.bias);
  for (int64_t first = 0; first < count; first += 16) {
    const __mmask16 lanes = first_lanes(count - first);
    const __m512 moved = _mm512_sub_ps(_mm512_maskz_loadu_ps(lanes, x + first), mean);
    const __m512 normal = _mm512_add_ps(_mm512_mul_ps(moved, factor), bias);
    _mm512_mask_storeu_ps(y + first, lanes, silu(normal));
  }
}

int64_t spin_float(int64_t rounds) {
  return spin_chains<20, 16>(rounds, _mm512_setzero_ps(), _mm512_set1_ps(1.0f),
                             [](__m512 sum, __m512 inputs, __m512 weights) {
                               return _mm512_fmadd_ps(inputs, weights, sum);
                             });
}

namespace {

constexpr int64_t kTileRows = 8;

int64_t spin(int64_t rounds) {
  return spin_chains<20, 64>(rounds, _mm512_setzero_si512(), _mm512_set1_epi8(1),
                             [](__m512i sum, __m512i codes, __m512i weights) {
                               return _mm512_dpbusd_epi32(sum, codes, weights);
                             });
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

constexpr Kernels table() {
  Kernels kernels = shared_kernels("avx512vnni", int64_t{1} << 22);
  kernels.groups = 3;
  kernels.multiply = multiply;
  kernels.spin = spin;
  kernels.attention = &kAvx512Attention;
  return kernels;
}

}  // namespace
}  // namespace avx512

extern const Kernels kAvx512Vnni;
const Kernels kAvx512Vnni = avx512::table();

}  // namespace mpq
