// IEEE binary16 <-> binary32 in integer arithmetic: the same on every processor.
#pragma once

#include <cstdint>
#include <cstring>

namespace mpq {

inline uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline float float_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// Exact.
inline float widen(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t magnitude = half & 0x7FFFu;
  if (magnitude >= 0x7C00u) return float_of(sign | 0x7F800000u | (magnitude & 0x3FFu) << 13);
  if (magnitude >= 0x0400u) return float_of(sign | ((magnitude << 13) + (112u << 23)));
  // Denormal: a whole number of 2^-24, which float32 holds as a normal number.
  const float value = static_cast<float>(magnitude) * 0x1p-24f;
  return float_of(sign | bits_of(value));
}

// Rounded once, half to even; beyond 65504 infinite; NaN stays NaN.
inline uint16_t narrow(float value) {
  const uint32_t bits = bits_of(value);
  const uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000u);
  const uint32_t magnitude = bits & 0x7FFFFFFFu;
  if (magnitude > 0x7F800000u) {
    return static_cast<uint16_t>(sign | 0x7E00u | (magnitude >> 13 & 0x3FFu));
  }
  if (magnitude >= 0x477FF000u) return static_cast<uint16_t>(sign | 0x7C00u);  // 65520
  if (magnitude >= 0x38800000u) {                                              // 2^-14: normal
    const uint32_t odd = magnitude >> 13 & 1u;
    return static_cast<uint16_t>(sign | (magnitude - (112u << 23) + 0xFFFu + odd) >> 13);
  }
  if (magnitude < 0x33000000u) return sign;         // below half of 2^-24
  const uint32_t shift = 126u - (magnitude >> 23);  // 14 to 24
  const uint32_t whole = (magnitude & 0x7FFFFFu) | 0x800000u;
  const uint32_t quotient = whole >> shift;
  const uint32_t rest = whole & ((1u << shift) - 1u);
  const uint32_t half = 1u << (shift - 1u);
  const uint32_t up = rest > half || (rest == half && (quotient & 1u)) ? 1u : 0u;
  return static_cast<uint16_t>(sign | (quotient + up));
}

}  // namespace mpq
