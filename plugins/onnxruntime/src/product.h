// The product of a packed weight with unfolded input, cut into pieces of work.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "layer.h"
#include "packed_weight.h"
#include "scratch.h"

namespace mpq {

inline int64_t divided_up(int64_t value, int64_t by) { return (value + by - 1) / by; }

struct ThreadScratch {
  Scratch codes, outputs, correction, scale;  // of the thread that calls
  Scratch panel, weights;                     // of every thread that works
};

inline ThreadScratch& thread_scratch() {
  static thread_local ThreadScratch scratch;
  return scratch;
}

// Activations and epilogue at one sampler step.
struct StepConstants {
  StepConstants(const PackedWeight& weight, int32_t step)
      : activation{weight.layer().act_scale.data[step],
                   static_cast<float>(weight.layer().act_zero_point.data[step]),
                   static_cast<float>((1 << weight.layer().act_bits) - 1)},
        correction(thread_scratch().correction.reserve<int32_t>(weight.rows())),
        scale(thread_scratch().scale.reserve<float>(weight.rows())) {
    weight.epilogue(step, correction, scale);
  }

  ActivationStep activation;
  int32_t* correction;
  float* scale;
};

// How sixteen-pixel groups times rows are cut: few enough groups that their unfolded input stays in
// the second-level cache while all rows pass over it, and rows only where there would be fewer
// pieces than threads.
struct Partition {
  int64_t groups, panel_groups, panels, part_rows, row_parts;

  Partition(int64_t all_groups, int64_t rows, int64_t blocks, int64_t threads)
      : groups(all_groups) {
    constexpr int64_t kPanelBytes = int64_t{3} << 18;
    const int64_t group_bytes = blocks * kBlockLines * kLineBytes;
    const int64_t most = std::max<int64_t>(kPanelBytes / group_bytes, kMaxGroups);
    panels = divided_up(groups, most);
    // A panel should be worth unpacking the rows for.
    if (panels < threads && groups >= 8 * threads) panels = threads;
    if (panels > threads) panels = divided_up(panels, threads) * threads;
    panel_groups = divided_up(groups, panels);
    panels = divided_up(groups, panel_groups);
    const int64_t chunks = divided_up(rows, kRows);
    row_parts = panels >= threads ? 1 : std::min(divided_up(threads, panels), chunks);
    part_rows = divided_up(chunks, row_parts) * kRows;
    row_parts = divided_up(rows, part_rows);
  }

  int64_t pieces() const { return panels * row_parts; }
};

// Where the outputs of one group of pixels go: those of an output channel, `pixels` of them, begin
// at first + channel * channel_stride.
struct GroupOutput {
  float* first;
  int64_t channel_stride, pixels;
};

// One piece: unfold(group, lines) writes each of its groups' lines, then `row_count` sorted rows
// from `first_row` pass over them; output(group) says where results go.
template <typename Unfold, typename Output>
void multiply_piece(const PackedWeight& weight, const Partition& partition, int64_t piece,
                    int64_t first_row, int64_t row_count, const StepConstants& constants,
                    const Unfold& unfold, const Output& output) {
  const Kernels& kernels = weight.kernels();
  const int64_t group_bytes = weight.blocks() * kBlockLines * kLineBytes;
  const int64_t first_group = piece / partition.row_parts * partition.panel_groups;
  const int64_t groups = std::min(partition.panel_groups, partition.groups - first_group);
  const int64_t begin = piece % partition.row_parts * partition.part_rows;
  const int64_t end = std::min(begin + partition.part_rows, row_count);
  ThreadScratch& scratch = thread_scratch();
  auto* panel = scratch.panel.reserve<uint8_t>(groups * group_bytes);
  auto* unpacked = scratch.weights.reserve<int8_t>(weight.unpacked_bytes());
  unfold(first_group, groups, panel);

  alignas(64) int32_t acc[kRows * kAccStride];
  kernels.begin();
  for (int64_t chunk = begin; chunk < end; chunk += kRows) {
    const int64_t rows = std::min(kRows, end - chunk), sorted = first_row + chunk;
    if (rows < kRows) std::memset(unpacked, 0, static_cast<std::size_t>(weight.unpacked_bytes()));
    weight.unpack(sorted, rows, unpacked);
    const int32_t* channels = weight.row_order() + sorted;
    const RowEpilogue epilogue{constants.correction + sorted, constants.scale + sorted,
                               weight.sorted_bias() + sorted};
    for (int64_t g = 0; g < groups; g += kernels.groups) {
      const int64_t count = std::min(kernels.groups, groups - g);
      kernels.multiply(unpacked, panel + g * group_bytes, weight.blocks(), count, acc);
      for (int64_t i = 0; i < count; ++i) {
        const GroupOutput to = output(first_group + g + i);
        float* y[kRows];
        for (int64_t r = 0; r < rows; ++r) y[r] = to.first + channels[r] * to.channel_stride;
        kernels.finish(acc + i * kPixels, epilogue, rows, to.pixels, y);
      }
    }
  }
  kernels.end();
}

}  // namespace mpq
