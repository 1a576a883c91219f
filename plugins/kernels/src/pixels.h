// Where an output pixel's columns begin.
#pragma once

#include "instructions.h"
#include "problem.h"

namespace mpq {

// The first tap's first channel of the first group, in bytes from the activations' begin.
__device__ __forceinline__ int32_t first_byte(const Problem& p, int32_t pixel) {
  if (p.layer.linear != 0) return pixel * p.pixel_bytes;
  const int32_t x = pixel % p.out_width, line = pixel / p.out_width;
  const int32_t y = line % p.out_height, image = line / p.out_height;
  const int32_t padded_line = image * p.padded_height + y * p.layer.strides[0];
  return (padded_line * p.padded_width + x * p.layer.strides[1]) * p.pixel_bytes;
}

}  // namespace mpq
