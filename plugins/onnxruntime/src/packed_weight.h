// A layer's packed rows as the kernels read them, and the sums that correct for zero points.
#pragma once

#include <cstdint>
#include <vector>

#include "description.h"
#include "kernels/kernels.h"

namespace mpq {

inline int64_t divided_up(int64_t value, int64_t by) { return (value + by - 1) / by; }

// Columns are tap-major, and a tap's channels are padded to four: products take four at once. Only
// where that changes anything are planes copied; else they stay where the description has them.
class PackedWeight {
 public:
  // Throws ContractError unless `layer` keeps the contract.
  PackedWeight(const LayerDescription& layer, const Kernels& kernels);

  const LayerDescription& layer() const { return layer_; }
  const Kernels& kernels() const { return kernels_; }

  int64_t rows() const { return rows_; }
  int64_t groups() const { return layer_.conv.group; }
  int64_t taps() const { return taps_; }
  // Of one group of the convolution.
  int64_t group_rows() const { return rows_ / groups(); }
  int64_t group_channels() const { return group_channels_; }
  int64_t group_quads() const { return (group_channels_ + 3) / 4; }  // fours of channels
  int64_t blocks() const { return blocks_; }
  int64_t unpacked_bytes() const;  // of kRows rows

  const uint8_t* input_shift() const { return input_shift_.data(); }

  // Rows are output channels, in their own order: how planes sort them stays in here.

  // `count` rows from `first`, at most kRows, as int8; rows beyond them are left as they are.
  void unpack(int64_t first, int64_t count, int8_t* out) const;

  // What turns sums of stored codes into the contract's, and the scales of outputs, for all rows at
  // one sampler step.
  void epilogue(int32_t step, int32_t* correction, float* scale) const;

 private:
  RowPlanes sorted_row(int64_t sorted) const;
  void order_panels();
  void pad_taps();
  void sum_rows();

  LayerDescription layer_;
  const Kernels& kernels_;
  int64_t rows_, taps_, group_channels_, blocks_, row_bytes_;
  std::vector<int64_t> plane_begins_;  // stored rows before each plane
  const uint8_t* planes_;
  std::vector<uint32_t> padded_planes_;
  std::vector<uint8_t> input_shift_;
  // Places of rows among the sorted ones, in ascending order within each panel of kRows rows: those
  // of equal plane counts are unpacked one after another.
  std::vector<int32_t> panel_order_;
  std::vector<int32_t> sums_, shifted_sums_;  // of w and of w << e, per row
};

}  // namespace mpq
