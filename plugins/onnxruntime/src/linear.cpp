// A linear layer: sixteen rows of its input are what sixteen pixels are to a convolution.
#include <algorithm>
#include <cstring>

#include "product.h"

namespace mpq {

void Layer::linear(const float* x, int64_t count, int32_t step, float* y,
                   Parallel& parallel) const {
  const PackedWeight& weight = *weight_;
  if (count == 0) return;
  const StepConstants constants(weight, step);
  const int64_t columns = weight.layer().columns, stride = weight.blocks() * kBlockColumns;
  const int64_t groups = divided_up(count, kPixels), padded = groups * kPixels;
  auto* codes = thread_scratch().codes.reserve<uint8_t>(count * stride);
  const int64_t quantized_rows = divided_up(kPieceValues, columns);
  run_all(parallel, divided_up(count, quantized_rows), [&](int64_t piece) {
    const int64_t end = std::min(count, (piece + 1) * quantized_rows);
    for (int64_t row = piece * quantized_rows; row < end; ++row) {
      weight.kernels().quantize_row(x + row * columns, weight.layer().input_factor.data,
                                    weight.input_shift(), constants.activation, columns,
                                    codes + row * stride);
      std::memset(codes + row * stride + columns, 0, static_cast<std::size_t>(stride - columns));
    }
  });

  auto* outputs = thread_scratch().outputs.reserve<float>(weight.rows() * padded);
  const int64_t lines = weight.blocks() * kBlockLines, group_bytes = lines * kLineBytes;
  const int64_t* blocks = adjacent_blocks(weight);
  const Partition partition(weight, groups, group_bytes, true, parallel.threads());
  run_all(parallel, partition.pieces(), [&](int64_t piece) {
    multiply_piece(
        weight, partition, piece, 0, weight.rows(), constants, blocks, kLineBytes,
        [&](int64_t first, int64_t group_count) {
          auto* panel = thread_scratch().panel.reserve<uint8_t>(group_count * group_bytes);
          // A line is one dword of each of sixteen rows. Lanes without a row hold what they held.
          for (int64_t g = 0; g < group_count; ++g)
            weight.kernels().transpose(codes + (first + g) * kPixels * stride, stride / 4,
                                       std::min(kPixels, count - (first + g) * kPixels), lines,
                                       panel + g * group_bytes, kPixels);
          return [=](int64_t group) { return panel + (group - first) * group_bytes; };
        },
        [&](int64_t group) { return GroupOutput{outputs + group * kPixels, padded, kPixels}; });
  });
  const int64_t turned_rows =
      divided_up(divided_up(kPieceValues, weight.rows()), kPixels) * kPixels;
  run_all(parallel, divided_up(count, turned_rows), [&](int64_t piece) {
    const int64_t first = piece * turned_rows;
    weight.kernels().transpose(outputs + first, padded, weight.rows(),
                               std::min(turned_rows, count - first), y + first * weight.rows(),
                               weight.rows());
  });
}

}  // namespace mpq
