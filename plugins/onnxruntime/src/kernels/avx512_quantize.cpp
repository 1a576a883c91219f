// Activations to codes with AVX-512, for every way of multiplying them.
#include <immintrin.h>

#include "avx512.h"

namespace mpq {
namespace avx512 {

namespace {

// clamp(rne((x * factor) / scale) + zero_point, 0, top). The contract divides; here the quotient is
// a product with the reciprocal, and only where that lies so near a tie that its error could matter
// is it divided. Clamping first, to whole numbers, does not change what is rounded; within the
// codes (|q| <= 512) product and quotient differ by less than 4 ulp of q, 2^-12; the guard is
// 2^-10.
class Rounder {
 public:
  explicit Rounder(const ActivationStep& step)
      : scale_(_mm512_set1_ps(step.scale)),
        low_(_mm512_set1_ps(-step.zero_point)),
        high_(_mm512_set1_ps(step.top - step.zero_point)),
        zero_point_(_mm512_set1_epi32(static_cast<int32_t>(step.zero_point))),
        reciprocal_(1.0f / step.scale),
        scale_is_usual_(usual(step.scale)) {}

  // What x is multiplied with.
  __m512 gain(float factor) const { return _mm512_set1_ps(factor * reciprocal_); }
  __m512 gain(__m512 factor) const { return _mm512_mul_ps(factor, _mm512_set1_ps(reciprocal_)); }
  // Whether no product with such a factor leaves the normal numbers unless its code is a clamped
  // one, or that of 0.
  bool multiplies(float factor) const { return scale_is_usual_ && (factor == 0 || usual(factor)); }
  bool multiplies(__m512 factors) const {
    const __m512 size = _mm512_abs_ps(factors);
    const __mmask16 in = _mm512_cmp_ps_mask(size, _mm512_set1_ps(kLeast), _CMP_GT_OQ) &
                         _mm512_cmp_ps_mask(size, _mm512_set1_ps(kMost), _CMP_LT_OQ);
    const __mmask16 zero = _mm512_cmp_ps_mask(size, _mm512_setzero_ps(), _CMP_EQ_OQ);
    return scale_is_usual_ && static_cast<__mmask16>(in | zero) == 0xffff;
  }

  // Codes of x; lanes of `near` are set where they may be wrong.
  __m512i codes(__m512 x, __m512 gain, __mmask16& near) const {
    const __m512 value = clamped(_mm512_mul_ps(x, gain));
    constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    const __m512 distance = _mm512_abs_ps(_mm512_reduce_ps(value, kNearest));
    near |= _mm512_cmp_ps_mask(distance, _mm512_set1_ps(0.5f - 0x1p-10f), _CMP_GE_OQ);
    return rounded(value);
  }

  __m512i divided_codes(__m512 x, __m512 factor) const {
    return rounded(clamped(_mm512_div_ps(_mm512_mul_ps(x, factor), scale_)));
  }

 private:
  static constexpr float kLeast = 0x1p-60f, kMost = 0x1p60f;
  static bool usual(float value) {
    const float size = value < 0 ? -value : value;
    return size > kLeast && size < kMost;
  }
  // The order of the operands makes a NaN the lowest code.
  __m512 clamped(__m512 value) const { return _mm512_min_ps(_mm512_max_ps(value, low_), high_); }
  __m512i rounded(__m512 value) const {
    return _mm512_add_epi32(_mm512_cvtps_epi32(value), zero_point_);
  }

  __m512 scale_, low_, high_;
  __m512i zero_point_;
  float reciprocal_;
  bool scale_is_usual_;
};

}  // namespace

void quantize_quad(const Quad& quad, const ActivationStep& step, int64_t rows, int64_t columns,
                   uint8_t* out, int64_t out_stride) {
  const Rounder rounder(step);
  bool divide = false;
  __m512 gain[4];
  __m128i by[4];
  for (int channel = 0; channel < 4; ++channel) {
    gain[channel] = rounder.gain(quad.factor[channel]);
    by[channel] = _mm_cvtsi32_si128(quad.shift[channel] + 8 * channel);
    divide |= quad.x[channel] != nullptr && !rounder.multiplies(quad.factor[channel]);
  }
  for (int64_t row = 0; row < rows; ++row, out += out_stride) {
    for (int64_t first = 0; first < columns; first += 16) {
      const __mmask16 lanes = first_lanes(columns - first);
      const auto words_of = [&](const auto& codes_of) {
        __m512i words = _mm512_setzero_si512();
        for (int channel = 0; channel < 4; ++channel) {
          if (quad.x[channel] == nullptr) continue;
          const __m512 values =
              _mm512_maskz_loadu_ps(lanes, quad.x[channel] + row * columns + first);
          words = _mm512_or_si512(words, _mm512_sll_epi32(codes_of(values, channel), by[channel]));
        }
        return words;
      };
      __mmask16 near = 0;
      __m512i words = words_of(
          [&](__m512 values, int channel) { return rounder.codes(values, gain[channel], near); });
      if (__builtin_expect(divide || near != 0, 0)) {
        words = words_of([&](__m512 values, int channel) {
          return rounder.divided_codes(values, _mm512_set1_ps(quad.factor[channel]));
        });
      }
      _mm512_mask_storeu_epi32(out + 4 * first, lanes, words);
    }
  }
}

namespace {

// One vector of a row's values, and what is done to them.
struct Columns {
  __m512 x, factor;
  __m512i shift;
};

template <bool shifts>
Columns columns_at(const float* x, const float* factor, const uint8_t* shift, __mmask16 lanes) {
  Columns columns{_mm512_maskz_loadu_ps(lanes, x), _mm512_maskz_loadu_ps(lanes, factor), {}};
  if (shifts) columns.shift = _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(lanes, shift));
  return columns;
}

// Rows that are rounded by products where that is safe, by divisions where `divide` is set.
template <bool shifts, bool divide>
void quantize_rows_with(Rounder rounder, const float* x, const float* factor, const uint8_t* shift,
                        int64_t rows, int64_t columns, uint8_t* out, int64_t out_stride) {
  constexpr int64_t kVectors = 4, kAtOnce = 16 * kVectors;
  // Packing two by two leaves quarters of four vectors beside one another.
  const __m512i in_order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const auto codes_of = [&](const Columns& c, __mmask16& near) {
    const __m512i codes = divide ? rounder.divided_codes(c.x, c.factor)
                                 : rounder.codes(c.x, rounder.gain(c.factor), near);
    return shifts ? _mm512_sllv_epi32(codes, c.shift) : codes;
  };
  const auto exact_codes = [&](const Columns& c) {
    const __m512i codes = rounder.divided_codes(c.x, c.factor);
    return shifts ? _mm512_sllv_epi32(codes, c.shift) : codes;
  };
  for (int64_t row = 0; row < rows; ++row, x += columns, out += out_stride) {
    int64_t first = 0;
    for (; first + kAtOnce <= columns; first += kAtOnce) {
      __m512i codes[kVectors];
      __mmask16 near = 0;
#pragma GCC unroll 4
      for (int64_t v = 0; v < kVectors; ++v) {
        const int64_t k = first + 16 * v;
        codes[v] = codes_of(columns_at<shifts>(x + k, factor + k, shift + k, 0xffff), near);
      }
      if (__builtin_expect(near != 0, 0)) {
        for (int64_t v = 0; v < kVectors; ++v) {
          const int64_t k = first + 16 * v;
          codes[v] = exact_codes(columns_at<shifts>(x + k, factor + k, shift + k, 0xffff));
        }
      }
      const __m512i bytes = _mm512_packus_epi16(_mm512_packus_epi32(codes[0], codes[1]),
                                                _mm512_packus_epi32(codes[2], codes[3]));
      _mm512_storeu_si512(out + first, _mm512_permutexvar_epi32(in_order, bytes));
    }
    for (; first < columns; first += 16) {
      const __mmask16 lanes = first_lanes(columns - first);
      const Columns rest = columns_at<shifts>(x + first, factor + first, shift + first, lanes);
      __mmask16 near = 0;
      __m512i codes = codes_of(rest, near);
      if (near != 0) codes = exact_codes(rest);
      _mm512_mask_cvtepi32_storeu_epi8(out + first, lanes, codes);
    }
  }
}

}  // namespace

void quantize_rows(const float* x, const float* factor, const uint8_t* shift,
                   const ActivationStep& step, int64_t rows, int64_t columns, uint8_t* out,
                   int64_t out_stride) {
  const Rounder rounder(step);
  bool shifts = false, divide = false;
  for (int64_t first = 0; first < columns; first += 16) {
    const __mmask16 lanes = first_lanes(columns - first);
    divide |= !rounder.multiplies(_mm512_maskz_loadu_ps(lanes, factor + first));
    shifts |=
        _mm_test_epi8_mask(_mm_maskz_loadu_epi8(lanes, shift + first), _mm_set1_epi8(-1)) != 0;
  }
  const auto quantize = divide   ? quantize_rows_with<true, true>
                        : shifts ? quantize_rows_with<true, false>
                                 : quantize_rows_with<false, false>;
  quantize(rounder, x, factor, shift, rows, columns, out, out_stride);
}

}  // namespace avx512
}  // namespace mpq
