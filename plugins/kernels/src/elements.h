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

}  // namespace mpq
