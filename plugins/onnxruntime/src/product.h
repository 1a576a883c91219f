// The product of a packed weight with unfolded input, cut into pieces of work.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "layer.h"
#include "packed_weight.h"
#include "scratch.h"

namespace mpq {

struct ThreadScratch {
  Scratch image, correction, scale, blocks;  // of the thread that calls
  Scratch codes, panel, weights;             // of every thread that works
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

// How sixteen-pixel groups times rows are cut into pieces of work. A piece's input stays in the
// second-level cache while its rows pass over it.
struct Partition {
  int64_t groups, panel_groups, panels, part_rows, row_parts;

  // `group_bytes` of input are read for each group. Cutting rows unpacks each of them once, cutting
  // groups makes several pieces unpack all of them; but where the input has to be unfolded, cutting
  // rows makes several pieces unfold it.
  Partition(const PackedWeight& weight, int64_t all_groups, int64_t group_bytes, bool unfolded,
            int64_t threads)
      : groups(all_groups) {
    constexpr int64_t kPanelBytes = int64_t{3} << 18;
    constexpr int64_t kUnfoldedGroups = 8;  // worth unpacking the rows for
    const int64_t rows = weight.group_rows(), chunks = divided_up(rows, kRows);
    const int64_t products = groups * kPixels * rows * weight.blocks() * kBlockColumns;
    // Beside the products, outputs are finished, and where pieces unfold their input, also that.
    const int64_t columns = unfolded ? weight.blocks() * kBlockColumns : 0;
    const int64_t values = groups * kPixels * (rows + columns);
    threads = std::min(
        threads, divided_up(products, weight.kernels().piece_products) + values / kPieceValues);
    panels = divided_up(groups, std::max<int64_t>(kPanelBytes / group_bytes, kMaxGroups));
    if (unfolded && panels < threads && groups >= kUnfoldedGroups * threads) panels = threads;
    if (!unfolded && chunks < threads) panels = std::max(panels, std::min(threads, groups));
    if (panels > threads) panels = divided_up(panels, threads) * threads;
    panel_groups = divided_up(groups, panels);
    panels = divided_up(groups, panel_groups);
    row_parts = unfolded && panels >= threads ? 1 : std::min(threads, chunks);
    part_rows = divided_up(chunks, row_parts) * kRows;
    row_parts = divided_up(rows, part_rows);
  }

  int64_t pieces() const { return panels * row_parts; }
};

// A piece of work: some groups, and some of the rows that a partition was made for.
struct Piece {
  int64_t first_group, last_group, first_row, last_row;

  Piece(const Partition& partition, int64_t index, int64_t rows)
      : first_group(index / partition.row_parts * partition.panel_groups),
        last_group(std::min(first_group + partition.panel_groups, partition.groups)),
        first_row(index % partition.row_parts * partition.part_rows),
        last_row(std::min(first_row + partition.part_rows, rows)) {}

  int64_t groups() const { return last_group - first_group; }
};

// Lines of 64 bytes of an output that is about to be stored, or of what is added to it, fetched
// while its products are made: what jumps from row to row would wait for memory.
template <bool stored>
inline void fetch(const float* first, int64_t count) {
  constexpr int64_t kLineValues = 16;
  for (int64_t i = 0; i < count; i += kLineValues) __builtin_prefetch(first + i, stored);
}

// The piece's rows, counted from row `row_base`, pass over its groups. input(group) is where a
// group's lines begin, see Lines. output.expect(group, row, rows) is called before the products
// whose sums output.store(group, row, rows, sums, epilogue) gets; a group's are stored row panel
// after row panel, as many as Output::kUnpackedBytes hold unpacked, before the next group's.
template <typename Input, typename Output>
void multiply_piece(const PackedWeight& weight, const Piece& piece, int64_t row_base,
                    const StepConstants& constants, const int64_t* blocks, int64_t stride,
                    const Input& input, const Output& output) {
  const Kernels& kernels = weight.kernels();
  const int64_t panel_bytes = weight.unpacked_bytes();
  const int64_t most_panels = std::max<int64_t>(Output::kUnpackedBytes / panel_bytes, 1);
  const int64_t part_panels = divided_up(piece.last_row - piece.first_row, kRows);
  const int64_t chunk_rows = std::min(most_panels, part_panels) * kRows;
  auto* unpacked = thread_scratch().weights.reserve<int8_t>(chunk_rows / kRows * panel_bytes);

  alignas(64) int32_t acc[kMaxGroups * kGroupSums];
  kernels.begin();
  for (int64_t chunk = piece.first_row; chunk < piece.last_row; chunk += chunk_rows) {
    const int64_t chunk_end = std::min(chunk + chunk_rows, piece.last_row);
    int8_t* panel = unpacked;
    for (int64_t row = chunk; row < chunk_end; row += kRows, panel += panel_bytes) {
      const int64_t rows = std::min(kRows, chunk_end - row);
      if (rows < kRows) std::memset(panel, 0, static_cast<std::size_t>(panel_bytes));
      weight.unpack(row_base + row, rows, panel);
    }
    for (int64_t group = piece.first_group, count; group < piece.last_group; group += count) {
      // Alike products at the end: one group alone would be a slow one.
      const int64_t left = piece.last_group - group;
      count = divided_up(left, divided_up(left, kernels.groups));
      Lines lines{{}, blocks, stride};
      for (int64_t i = 0; i < count; ++i) lines.first[i] = input(group + i);
      panel = unpacked;
      for (int64_t row = chunk; row < chunk_end; row += kRows, panel += panel_bytes) {
        const int64_t rows = std::min(kRows, chunk_end - row), first = row_base + row;
        const RowEpilogue epilogue{constants.correction + first, constants.scale + first,
                                   weight.layer().bias.data + first};
        for (int64_t i = 0; i < count; ++i) output.expect(group + i, first, rows);
        kernels.multiply(panel, lines, weight.blocks(), count, acc);
        for (int64_t i = 0; i < count; ++i)
          output.store(group + i, first, rows, acc + i * kGroupSums, epilogue);
      }
    }
  }
  kernels.end();
}

// Offsets of blocks that lie one after another, for Lines of stride kLineBytes.
inline const int64_t* adjacent_blocks(const PackedWeight& weight) {
  auto* blocks = thread_scratch().blocks.reserve<int64_t>(weight.blocks());
  for (int64_t b = 0; b < weight.blocks(); ++b) blocks[b] = b * kBlockLines * kLineBytes;
  return blocks;
}

}  // namespace mpq
