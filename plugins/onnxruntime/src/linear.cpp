// A linear layer: sixteen rows of its input are what sixteen pixels are to a convolution. Each
// piece of work goes all the way from its rows to their outputs, so that threads meet once.
#include <algorithm>
#include <cstring>

#include "product.h"

namespace mpq {
namespace {

class Rows {
 public:
  Rows(const PackedWeight& weight, const ActivationStep& step, const float* x, int64_t count)
      : weight_(weight), step_(step), x_(x), count_(count) {}

  int64_t groups() const { return divided_up(count_, kPixels); }
  int64_t rows_of(int64_t group) const { return std::min(kPixels, count_ - group * kPixels); }
  int64_t group_bytes() const { return weight_.blocks() * kBlockLines * kLineBytes; }

  // Lines of `count` groups from `first`: one dword of each of a group's rows. Lanes without a row
  // hold what they held.
  const uint8_t* lines(int64_t first, int64_t count) const {
    const int64_t columns = weight_.layer().columns, stride = weight_.blocks() * kBlockColumns;
    auto* codes = thread_scratch().codes.reserve<uint8_t>(kPixels * stride);
    auto* panel = thread_scratch().panel.reserve<uint8_t>(count * group_bytes());
    for (int64_t group = first; group < first + count; ++group) {
      const int64_t rows = rows_of(group);
      weight_.kernels().quantize_rows(x_ + group * kPixels * columns,
                                      weight_.layer().input_factor.data, weight_.input_shift(),
                                      step_, rows, columns, codes, stride);
      for (int64_t row = 0; columns < stride && row < rows; ++row)
        std::memset(codes + row * stride + columns, 0, static_cast<std::size_t>(stride - columns));
      weight_.kernels().transpose(codes, stride / 4, rows, stride / 4,
                                  panel + (group - first) * group_bytes(), kPixels);
    }
    return panel;
  }

 private:
  const PackedWeight& weight_;
  const ActivationStep& step_;
  const float* x_;
  int64_t count_;
};

// Sums to rows of outputs.
class RowsOutput {
 public:
  // Many panels: rows are then stored in long stretches. With them a group's lines stay in the
  // second-level cache.
  static constexpr int64_t kUnpackedBytes = int64_t{1} << 19;

  RowsOutput(const PackedWeight& weight, const Rows& rows, const float* residual, float* y)
      : weight_(weight), rows_(rows), residual_(residual), y_(y) {}

  void expect(int64_t group, int64_t row, int64_t rows) const {
    for (int64_t i = 0; i < rows_.rows_of(group); ++i) {
      const int64_t first = at(group, row) + i * weight_.rows();
      fetch<true>(y_ + first, rows);
      if (residual_ != nullptr) fetch<false>(residual_ + first, rows);
    }
  }

  void store(int64_t group, int64_t row, int64_t rows, const int32_t* sums,
             const RowEpilogue& epilogue) const {
    const int64_t first = at(group, row);
    weight_.kernels().finish_turned(sums, epilogue,
                                    residual_ == nullptr ? nullptr : residual_ + first, rows,
                                    rows_.rows_of(group), y_ + first, weight_.rows());
  }

 private:
  int64_t at(int64_t group, int64_t row) const { return group * kPixels * weight_.rows() + row; }

  const PackedWeight& weight_;
  const Rows& rows_;
  const float* residual_;
  float* y_;
};

}  // namespace

void Layer::linear(const float* x, int64_t count, int32_t step, const float* residual, float* y,
                   Parallel& parallel) const {
  const PackedWeight& weight = *weight_;
  if (count == 0) return;
  const IeeeArithmetic ieee;
  const StepConstants constants(weight, step);
  const Rows rows(weight, constants.activation, x, count);
  const int64_t* blocks = adjacent_blocks(weight);
  const Partition partition(weight, rows.groups(), rows.group_bytes(), true, parallel.threads());
  run_all(parallel, partition.pieces(), [&](int64_t index) {
    const Piece piece(partition, index, weight.rows());
    const uint8_t* lines = rows.lines(piece.first_group, piece.groups());
    multiply_piece(
        weight, piece, 0, constants, blocks, kLineBytes,
        [&](int64_t group) { return lines + (group - piece.first_group) * rows.group_bytes(); },
        RowsOutput(weight, rows, residual, y));
  });
}

}  // namespace mpq
