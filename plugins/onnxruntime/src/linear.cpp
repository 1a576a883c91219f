// A linear layer: sixteen rows of its input are what sixteen pixels are to a convolution.
#include <algorithm>
#include <cstring>

#include "product.h"

namespace mpq {
namespace {

// Dwords of sixteen rows, each `stride` bytes long, to lines.
void interleave(const uint8_t* rows, int64_t stride, int64_t count, int64_t lines, uint8_t* out) {
  for (int64_t line = 0; line < lines; ++line)
    for (int64_t i = 0; i < kPixels; ++i)
      std::memcpy(out + line * kLineBytes + 4 * i,
                  rows + std::min(i, count - 1) * stride + 4 * line, 4);
}

// Outputs lie channel by channel, `stride` rows each; here `count` rows from `first` are turned.
void transpose(const float* outputs, int64_t stride, int64_t channels, int64_t first, int64_t count,
               float* y) {
  constexpr int64_t kTile = 16;
  for (int64_t channel = 0; channel < channels; channel += kTile) {
    const int64_t end = std::min(channel + kTile, channels);
    for (int64_t row = first; row < first + count; ++row)
      for (int64_t c = channel; c < end; ++c) y[row * channels + c] = outputs[c * stride + row];
  }
}

}  // namespace

void Layer::linear(const float* x, int64_t count, int32_t step, float* y,
                   Parallel& parallel) const {
  const PackedWeight& weight = *weight_;
  if (count == 0) return;
  const StepConstants constants(weight, step);
  const int64_t columns = weight.layer().columns, stride = weight.blocks() * kBlockColumns;
  const int64_t groups = divided_up(count, kPixels), padded = groups * kPixels;
  auto* codes = thread_scratch().codes.reserve<uint8_t>(count * stride);
  run_all(parallel, groups, [&](int64_t group) {
    const int64_t end = std::min(count, (group + 1) * kPixels);
    for (int64_t row = group * kPixels; row < end; ++row) {
      weight.kernels().quantize_row(x + row * columns, weight.layer().input_factor.data,
                                    weight.input_shift(), constants.activation, columns,
                                    codes + row * stride);
      std::memset(codes + row * stride + columns, 0, static_cast<std::size_t>(stride - columns));
    }
  });

  auto* outputs = thread_scratch().outputs.reserve<float>(weight.rows() * padded);
  const Partition partition(groups, weight.rows(), weight.blocks(), parallel.threads());
  run_all(parallel, partition.pieces(), [&](int64_t piece) {
    multiply_piece(
        weight, partition, piece, 0, weight.rows(), constants,
        [&](int64_t first, int64_t group_count, uint8_t* panel) {
          const int64_t lines = weight.blocks() * kBlockLines;
          for (int64_t g = first; g < first + group_count; ++g, panel += lines * kLineBytes)
            interleave(codes + g * kPixels * stride, stride, std::min(kPixels, count - g * kPixels),
                       lines, panel);
        },
        [&](int64_t group) { return GroupOutput{outputs + group * kPixels, padded, kPixels}; });
  });
  run_all(parallel, groups, [&](int64_t group) {
    transpose(outputs, padded, weight.rows(), group * kPixels,
              std::min(kPixels, count - group * kPixels), y);
  });
}

}  // namespace mpq
