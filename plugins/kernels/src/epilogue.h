// Sums to outputs: y = fl(fl(sum * fl(s * S)) + bias), each operation rounded on its own.
#pragma once

#include "elements.h"
#include "problem.h"

namespace mpq {

// A pixel's place in y: where its first channel would be.
class OutputCursor {
 public:
  __device__ __forceinline__ OutputCursor(const Problem& p, int32_t pixel)
      : pixel_(pixel), within_(pixel % p.image_pixels) {
    const int64_t image = pixel / p.image_pixels;
    place_ = image * p.layer.rows * p.image_pixels + int64_t{within_} * p.pixel_stride;
  }

  __device__ __forceinline__ void advance(const Problem& p, int32_t pixels) {
    pixel_ += pixels;
    within_ += pixels;
    place_ += pixels * p.pixel_stride;
    while (within_ >= p.image_pixels) {
      within_ -= p.image_pixels;
      place_ += int64_t{p.layer.rows - p.pixel_stride} * p.image_pixels;
    }
  }

  __device__ __forceinline__ bool inside(const Problem& p) const { return pixel_ < p.pixels; }
  __device__ __forceinline__ int64_t place() const { return place_; }

 private:
  int32_t pixel_, within_;
  int64_t place_;
};

// One padded row of the layer, and what makes outputs of its sums.
struct RowEpilogue {
  int64_t place;        // from a pixel's first channel; -1: padding
  uint32_t correction;  // what int8 activations leave out of the sums; modulo 2^32
  float scale, bias;

  __device__ __forceinline__ RowEpilogue(const Problem& p, int32_t row) {
    const int32_t step_index = p.call.step_index[0];
    const auto zero_point = static_cast<uint32_t>(p.layer.act_zero_point[step_index]);
    const auto sum = static_cast<uint32_t>(p.layer.row_sums[row]);
    const auto shifted = static_cast<uint32_t>(p.layer.row_sums[p.padded_rows + row]);
    const int32_t channel = p.layer.output_rows[row];
    place = channel < 0 ? -1 : int64_t{channel} * p.channel_stride;
    correction = p.offset_form ? 128u * sum - zero_point * shifted : 0u;
    scale = __fmul_rn(p.layer.act_scale[step_index], p.layer.scale[row]);
    bias = p.layer.bias[row];
  }

  __device__ __forceinline__ float output(int32_t sum) const {
    const auto corrected = static_cast<int32_t>(static_cast<uint32_t>(sum) + correction);
    return __fadd_rn(__fmul_rn(__int2float_rn(corrected), scale), bias);
  }
};

// y as it is stored, the residual of that place added to what y's type holds.
template <typename Element>
__device__ __forceinline__ Element finished(const Problem& p, float y, int64_t place) {
  const auto stored = narrow<Element>(y);
  if (p.call.residual == nullptr) return stored;
  const Element residual = static_cast<const Element*>(p.call.residual)[place];
  return narrow<Element>(__fadd_rn(widen(stored), widen(residual)));
}

template <typename Element>
__device__ __forceinline__ void store_output(const Problem& p, const RowEpilogue& row,
                                             const OutputCursor& pixel, int32_t sum) {
  if (row.place < 0 || !pixel.inside(p)) return;
  const int64_t place = row.place + pixel.place();
  static_cast<Element*>(p.call.y)[place] = finished<Element>(p, row.output(sum), place);
}

// Outputs of a pixel and the next, which are the first and second of a pair where p.paired.
template <typename Element>
__device__ __forceinline__ void store_outputs(const Problem& p, const RowEpilogue& row,
                                              const OutputCursor& pixel, const OutputCursor& next,
                                              int32_t sum, int32_t next_sum) {
  if (!p.paired) {
    store_output<Element>(p, row, pixel, sum);
    store_output<Element>(p, row, next, next_sum);
  } else if (row.place >= 0 && pixel.inside(p)) {
    const int64_t place = row.place + pixel.place();
    *reinterpret_cast<Pair<Element>*>(static_cast<Element*>(p.call.y) + place) = {
        finished<Element>(p, row.output(sum), place),
        finished<Element>(p, row.output(next_sum), place + 1)};
  }
}

}  // namespace mpq
