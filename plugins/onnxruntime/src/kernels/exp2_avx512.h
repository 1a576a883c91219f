// 2^x with AVX-512.
#pragma once

#include <immintrin.h>
#include <stdint.h>

namespace mpq {
namespace avx512 {
namespace {

// While it lives, results too small for a normal number are 0: the instruction that makes powers of
// two would take a hundred times as long to make them denormal.
class NoDenormals {
 public:
  NoDenormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | kFlushed | kTakenAsZero); }
  ~NoDenormals() { _mm_setcsr(before_); }
  NoDenormals(const NoDenormals&) = delete;
  NoDenormals& operator=(const NoDenormals&) = delete;

 private:
  static constexpr unsigned kFlushed = 0x8000, kTakenAsZero = 0x0040;
  const unsigned before_;
};

// To about one unit in the last place: a polynomial of least relative error in what x is above the
// whole number below it. NaN of NaN.
inline __m512 exp2(__m512 x) {
  const __m512 rest = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
  __m512 power = _mm512_set1_ps(1.8775761e-3f);
  for (const float coefficient :
       {8.9893416e-3f, 5.5826318e-2f, 2.4015361e-1f, 6.9315308e-1f, 9.9999994e-1f})
    power = _mm512_fmadd_ps(power, rest, _mm512_set1_ps(coefficient));
  return _mm512_scalef_ps(power, x);
}

}  // namespace
}  // namespace avx512
}  // namespace mpq
