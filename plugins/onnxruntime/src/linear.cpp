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
      for (int64_t row = 0; row < rows_of(group); ++row) {
        weight_.kernels().quantize_row(x_ + (group * kPixels + row) * columns,
                                       weight_.layer().input_factor.data, weight_.input_shift(),
                                       step_, columns, codes + row * stride);
        std::memset(codes + row * stride + columns, 0, static_cast<std::size_t>(stride - columns));
      }
      weight_.kernels().transpose(codes, stride / 4, rows_of(group), stride / 4,
                                  panel + (group - first) * group_bytes(), kPixels);
    }
    return panel;
  }

  // Turns a piece's outputs. Its channels are in no order, unless it has all of them.
  void store(const Piece& piece, const float* outputs, int64_t stride, float* y) const {
    const int64_t first = piece.first_group * kPixels, channels = weight_.rows();
    const int64_t rows = std::min(piece.groups() * kPixels, count_ - first);
    float* to = y + first * channels;
    if (piece.last_row - piece.first_row == channels) {
      weight_.kernels().transpose(outputs, stride, channels, rows, to, channels);
      return;
    }
    for (int64_t sorted = piece.first_row; sorted < piece.last_row; ++sorted) {
      const int64_t channel = weight_.row_order()[sorted];
      for (int64_t row = 0; row < rows; ++row)
        to[row * channels + channel] = outputs[channel * stride + row];
    }
  }

 private:
  const PackedWeight& weight_;
  const ActivationStep& step_;
  const float* x_;
  int64_t count_;
};

}  // namespace

void Layer::linear(const float* x, int64_t count, int32_t step, float* y,
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
    // Outputs of a piece lie channel by channel, those of all channels: rows are sorted by planes.
    const int64_t stride = piece.groups() * kPixels;
    auto* outputs = thread_scratch().outputs.reserve<float>(weight.rows() * stride);
    const uint8_t* lines = rows.lines(piece.first_group, piece.groups());
    multiply_piece(
        weight, piece, 0, constants, blocks, kLineBytes,
        [&](int64_t group) { return lines + (group - piece.first_group) * rows.group_bytes(); },
        [&](int64_t group) {
          return GroupOutput{outputs + (group - piece.first_group) * kPixels, stride, kPixels};
        });
    rows.store(piece, outputs, stride, y);
  });
}

}  // namespace mpq
