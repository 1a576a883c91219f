// The types that inputs and outputs come in: float32 and float16.
#pragma once

#include "instructions.h"

namespace mpq {

// IEEE binary16, which is widened before anything is done with it.
struct Float16 {
  uint16_t bits;
};

// Two that lie side by side.
template <typename Element>
struct alignas(2 * sizeof(Element)) Pair {
  Element first, second;
};

__device__ __forceinline__ float widen(float value) { return value; }
__device__ __forceinline__ float widen(Float16 value) { return from_float16(value.bits); }

template <typename Element>
__device__ __forceinline__ Element narrow(float value);
template <>
__device__ __forceinline__ float narrow<float>(float value) {
  return value;
}
template <>
__device__ __forceinline__ Float16 narrow<Float16>(float value) {
  return {to_float16(value)};
}

// As many as 16 bytes hold.
template <typename Element>
struct alignas(16) Adjacent {
  static constexpr int kCount = 16 / sizeof(Element);
  Element elements[kCount];
};

}  // namespace mpq
