// The arithmetic that the contract asks for, whatever the program around has chosen.
#pragma once

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif
#include <cstdint>

namespace mpq {

// While it lives, this thread rounds half to even and keeps denormals: a session that sets them to
// zero (session.set_denormal_as_zero) does so for its threads and for the one that runs it.
class IeeeArithmetic {
 public:
#if defined(__x86_64__)
  IeeeArithmetic() : before_(_mm_getcsr()) { _mm_setcsr(kDefault); }
  ~IeeeArithmetic() { _mm_setcsr(before_); }
#elif defined(__aarch64__)
  IeeeArithmetic() {
    __asm__ volatile("mrs %0, fpcr" : "=r"(before_));
    __asm__ volatile("msr fpcr, %0" : : "r"(std::uint64_t{0}));
  }
  ~IeeeArithmetic() { __asm__ volatile("msr fpcr, %0" : : "r"(before_)); }
#else
  IeeeArithmetic() = default;
#endif
  IeeeArithmetic(const IeeeArithmetic&) = delete;
  IeeeArithmetic& operator=(const IeeeArithmetic&) = delete;

#if defined(__x86_64__)
 private:
  static constexpr unsigned kDefault = 0x1f80;  // every exception masked
  const unsigned before_;
#elif defined(__aarch64__)
 private:
  std::uint64_t before_ = 0;
#endif
};

}  // namespace mpq
