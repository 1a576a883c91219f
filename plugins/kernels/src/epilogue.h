// Sums to outputs: y = fl(fl(sum * fl(s * S)) + bias), each operation rounded on its own.
#pragma once

#include <cstdint>

#include "elements.h"
#include "problem.h"

namespace mpq {

// A pixel's place in y, and how far the next channel is.
struct PixelOutput {
  int64_t begin, channel_stride;
  bool inside;
};

__device__ __forceinline__ PixelOutput pixel_output(const Problem& p, int32_t pixel) {
  const bool inside = pixel < p.pixels;
  if (p.layer.linear != 0) return {int64_t{pixel} * p.layer.rows, 1, inside};
  const int32_t image = pixel / p.image_pixels;
  const int64_t begin = int64_t{image} * p.layer.rows * p.image_pixels + pixel % p.image_pixels;
  return {begin, p.image_pixels, inside};
}

// One padded row of the layer.
struct RowEpilogue {
  int32_t channel;     // -1: padding
  uint32_t correction;  // what int8 activations leave out of the sums; modulo 2^32
  float scale, bias;

  __device__ __forceinline__ RowEpilogue(const Problem& p, int32_t row) {
    const int32_t step = p.call.step_index[0];
    const auto zero_point = static_cast<uint32_t>(p.layer.act_zero_point[step]);
    const auto sum = static_cast<uint32_t>(p.layer.row_sums[row]);
    const auto shifted = static_cast<uint32_t>(p.layer.row_sums[p.padded_rows + row]);
    channel = p.layer.output_rows[row];
    correction = p.offset_form ? 128u * sum - zero_point * shifted : 0u;
    scale = __fmul_rn(p.layer.act_scale[step], p.layer.scale[row]);
    bias = p.layer.bias[row];
  }

  __device__ __forceinline__ void store(const Problem& p, int32_t sum,
                                        const PixelOutput& pixel) const {
    if (channel < 0 || !pixel.inside) return;
    const bool half = p.call.float16 != 0;
    const auto corrected = static_cast<int32_t>(static_cast<uint32_t>(sum) + correction);
    const int64_t index = pixel.begin + channel * pixel.channel_stride;
    float y = __fadd_rn(__fmul_rn(__int2float_rn(corrected), scale), bias);
    if (p.call.residual != nullptr) {
      y = __fadd_rn(rounded_element(y, half), load_element(p.call.residual, index, half));
    }
    store_element(p.call.y, index, y, half);
  }
};

}  // namespace mpq
