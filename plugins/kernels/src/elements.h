// Float32 and float16 arrays of one call, by index.
#pragma once

#include <cstdint>

#include "instructions.h"

namespace mpq {

__device__ __forceinline__ float load_element(const void* from, int64_t index, bool half) {
  return half ? from_half(static_cast<const uint16_t*>(from)[index])
              : static_cast<const float*>(from)[index];
}

__device__ __forceinline__ void store_element(void* to, int64_t index, float value, bool half) {
  if (half) {
    static_cast<uint16_t*>(to)[index] = to_half(value);
  } else {
    static_cast<float*>(to)[index] = value;
  }
}

// The value as an array of the call holds it.
__device__ __forceinline__ float rounded_element(float value, bool half) {
  return half ? from_half(to_half(value)) : value;
}

__device__ __forceinline__ uint32_t word_of(const uint4& words, int index) {
  return index == 0 ? words.x : index == 1 ? words.y : index == 2 ? words.z : words.w;
}

// Sixteen elements that begin at a multiple of 16 bytes.
__device__ __forceinline__ void load_adjacent(const void* from, bool half, float (&values)[16]) {
  const auto* parts = static_cast<const uint4*>(from);
  if (half) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const uint32_t pair = word_of(parts[i / 4], i % 4);
      values[2 * i] = from_half(static_cast<uint16_t>(pair));
      values[2 * i + 1] = from_half(static_cast<uint16_t>(pair >> 16));
    }
  } else {
#pragma unroll
    for (int i = 0; i < 16; ++i) values[i] = __uint_as_float(word_of(parts[i / 4], i % 4));
  }
}

}  // namespace mpq
