#include "packed_weight.h"

#include <algorithm>
#include <cstring>

namespace mpq {
namespace {

constexpr int64_t kWordBits = 32;

}  // namespace

PackedWeight::PackedWeight(const LayerDescription& layer, const Kernels& kernels)
    : layer_(layer), kernels_(kernels) {
  check(layer_);
  rows_ = layer_.row_order.shape[0];
  taps_ = layer_.conv.kernel_shape[0] * layer_.conv.kernel_shape[1];
  group_channels_ = layer_.columns / taps_;
  blocks_ = divided_up(taps_ * group_quads() * 4, kBlockColumns);
  row_bytes_ = divided_up(layer_.columns, kWordBits) * 4;
  planes_ = reinterpret_cast<const uint8_t*>(layer_.planes.data);
  int64_t begin = 0;
  for (int64_t count : layer_.plane_rows) {
    plane_begins_.push_back(begin);
    begin += count;
  }
  const auto channels = static_cast<std::size_t>(mpq::input_channels(layer_));
  input_shift_.assign(layer_.input_shift.data, layer_.input_shift.data + channels);
  order_panels();
  sum_rows();
  if (group_channels_ % 4 != 0 && taps_ > 1) pad_taps();
}

int64_t PackedWeight::unpacked_bytes() const {
  return blocks_ * kRows * kBlockColumns * kernels_.bytes_per_weight;
}

RowPlanes PackedWeight::sorted_row(int64_t sorted) const {
  RowPlanes row{};
  row.offset = layer_.steps.data[sorted];
  for (std::size_t p = 0; p < layer_.plane_rows.size() && sorted < layer_.plane_rows[p]; ++p) {
    row.bits[p] = planes_ + (plane_begins_[p] + sorted) * row_bytes_;
    row.steps[p] = layer_.steps.data[(static_cast<int64_t>(p) + 1) * rows_ + sorted];
    row.count = static_cast<int8_t>(p + 1);
  }
  return row;
}

void PackedWeight::order_panels() {
  panel_order_.resize(static_cast<std::size_t>(rows_));
  for (int64_t sorted = 0; sorted < rows_; ++sorted)
    panel_order_[layer_.row_order.data[sorted]] = static_cast<int32_t>(sorted);
  for (int64_t first = 0; first < rows_; first += kRows) {
    const auto panel = panel_order_.begin() + first;
    std::sort(panel, panel + std::min(kRows, rows_ - first));
  }
}

// Sums run over the layer's own columns: codes beyond them are stored as 0.
void PackedWeight::sum_rows() {
  const int64_t per_tap = group_channels_;
  sums_.resize(static_cast<std::size_t>(rows_));
  shifted_sums_.resize(static_cast<std::size_t>(rows_));
  for (int64_t sorted = 0; sorted < rows_; ++sorted) {
    const RowPlanes planes = sorted_row(sorted);
    const int64_t row = layer_.row_order.data[sorted];
    const uint8_t* shift = input_shift_.data() + row / group_rows() * group_channels_;
    uint32_t sum = 0, shifted = 0;
    for (int64_t k = 0, channel = 0; k < layer_.columns; ++k) {
      int32_t weight = planes.offset;
      for (int p = 0; p < planes.count; ++p)
        weight += ((planes.bits[p][k / 8] >> (k % 8)) & 1) * planes.steps[p];
      sum += static_cast<uint32_t>(weight);
      shifted += static_cast<uint32_t>(weight * (1 << shift[channel]));
      if (++channel == per_tap) channel = 0;
    }
    sums_[row] = static_cast<int32_t>(sum);
    shifted_sums_[row] = static_cast<int32_t>(shifted);
  }
}

void PackedWeight::pad_taps() {
  const int64_t padded = group_quads() * 4;
  const int64_t words = divided_up(taps_ * padded, kWordBits);
  const int64_t stored = layer_.planes.shape[0];
  padded_planes_.assign(static_cast<std::size_t>(stored * words), 0);
  for (int64_t row = 0; row < stored; ++row) {
    const uint8_t* bits = planes_ + row * row_bytes_;
    uint32_t* out = padded_planes_.data() + row * words;
    for (int64_t k = 0; k < layer_.columns; ++k) {
      const int64_t to = k / group_channels_ * padded + k % group_channels_;
      out[to / kWordBits] |= static_cast<uint32_t>((bits[k / 8] >> (k % 8)) & 1)
                             << (to % kWordBits);
    }
  }
  planes_ = reinterpret_cast<const uint8_t*>(padded_planes_.data());
  row_bytes_ = words * 4;
}

void PackedWeight::unpack(int64_t first, int64_t count, int8_t* out) const {
  RowPlanes chunk[kRows];
  for (int64_t r = 0; r < count; ++r) {
    const int32_t sorted = panel_order_[first + r];
    chunk[r] = sorted_row(sorted);
    chunk[r].place = static_cast<int8_t>(layer_.row_order.data[sorted] - first);
  }
  kernels_.unpack(chunk, count, row_bytes_, blocks_, out);
}

void PackedWeight::epilogue(int32_t step, int32_t* correction, float* scale) const {
  // With codes stored as code - 128 the products lack 128 times the weights. Modulo 2^32.
  const auto flipped = static_cast<uint32_t>(kernels_.flip);
  const auto zero_point = static_cast<uint32_t>(layer_.act_zero_point.data[step]);
  const float act_scale = layer_.act_scale.data[step];
  for (int64_t row = 0; row < rows_; ++row)
    correction[row] = static_cast<int32_t>(zero_point * static_cast<uint32_t>(shifted_sums_[row]) -
                                           flipped * static_cast<uint32_t>(sums_[row]));
  for (int64_t sorted = 0; sorted < rows_; ++sorted)
    scale[layer_.row_order.data[sorted]] = act_scale * layer_.scale.data[sorted];
}

}  // namespace mpq
