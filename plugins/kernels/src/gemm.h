// Many pixels: four warps, each with a tile of 32 rows against 64 or 128 pixels. All four have
// tiles of their own and share the pixels, or, where rows are no multiple of four tiles, two have a
// tile and half of the pixels each.
//
// Weights go from global memory straight into registers, bits that no other warp needs. Activations
// go through shared memory in stages of one block of columns: a stage is a row of 128 bytes per
// pixel, whose 16-byte chunks are swizzled by the pixel so that ldmatrix meets no bank twice. A
// linear layer and a convolution of any geometry differ in numbers alone: a pixel's first byte and
// the distances of chunks from it.
//
// Warps of different plane counts run different variants of the loop and meet at its barriers,
// which count whole warps, wherever they come from.
#pragma once

#include "epilogue.h"
#include "kernels.h"
#include "levels.h"
#include "pixels.h"
#include "splits.h"
#include "tile_sums.h"

namespace mpq {

// One thread's share of filling stages: one chunk of every sixteenth pixel.
template <int kPixels>
class StageFiller {
 public:
  static constexpr int kRowStep = kGemmThreads / kBlockChunks;
  static constexpr int kCopies = kPixels / kRowStep;

  __device__ __forceinline__ StageFiller(const Problem& p, int32_t group, int32_t first_pixel)
      : base_(p.activations + group * p.group_bytes) {
    const int32_t chunk = threadIdx.x % kBlockChunks, row = threadIdx.x / kBlockChunks;
    offsets_ = p.chunk_offsets + chunk;
    to_ = shared_begin() + row * kBlockColumns + ((chunk ^ (row % 8)) * kChunk);
#pragma unroll
    for (int i = 0; i < kCopies; ++i) pixels_[i] = pixel_begin(p, first_pixel + row + i * kRowStep);
  }

  // Where a block's chunk lies: to be read one fill ahead.
  __device__ __forceinline__ void read_offset(int32_t block) {
    offset_ = offsets_[block * kBlockChunks];
  }

  __device__ __forceinline__ void fill(int32_t stage) const {
    const SharedAddress to = to_ + stage * kPixels * kBlockColumns;
    const int32_t count = offset_ == kNoColumn ? 0 : kChunk;
    const int8_t* from = base_ + max(offset_, 0);
#pragma unroll
    for (int i = 0; i < kCopies; ++i) {
      copy_async(to + i * kRowStep * kBlockColumns, from + static_cast<uint32_t>(pixels_[i]),
                 count);
    }
  }

 private:
  // Pixels beyond the last read the last one's columns; nothing is made of them.
  static __device__ __forceinline__ int32_t pixel_begin(const Problem& p, int32_t pixel) {
    return first_byte(p, min(pixel, p.pixels - 1));
  }

  const int8_t* base_;
  const int32_t* offsets_;
  SharedAddress to_;
  int32_t offset_ = 0;
  int32_t pixels_[kCopies];
};

// Where a lane finds the B operands of a stage.
class StageReader {
 public:
  // From a pixel of the stage on.
  explicit __device__ __forceinline__ StageReader(int32_t first_pixel) {
    const int32_t lane = threadIdx.x % 32;
    row_ = shared_begin() + (first_pixel + lane / 16 * 8 + lane % 8) * kBlockColumns;
    chunk_ = lane / 8 % 2;
    swizzle_ = lane % 8;
  }

  // Operands of pixels 16 * pair .. 16 * pair + 15 for columns 32 * slice .. 32 * slice + 31: the
  // first two words are those of the first eight pixels.
  __device__ __forceinline__ void read(uint32_t stage_bytes, int slice, int pair,
                                       uint32_t (&b)[4]) const {
    const uint32_t chunk = (chunk_ + 2 * slice) ^ swizzle_;
    load_matrices(b, row_ + stage_bytes + chunk * kChunk + pair * 16 * kBlockColumns);
  }

 private:
  SharedAddress row_;
  uint32_t chunk_, swizzle_;
};

// One warp's sums over a range of the columns.
template <int kPixels, int kWarpPixels>
struct TileProduct {
  const Problem& p;
  const ColumnRange& range;
  int32_t tile;
  StageFiller<kPixels>& filler;
  const StageReader& reader;
  TileSums<kWarpPixels>& sums;

  // A warp of no planes has no rows and only fills.
  template <int kPlanes>
  __device__ __forceinline__ void run() const {
    constexpr bool kHasRows = kPlanes > 0;
    TileLevels<kHasRows ? kPlanes : 1> levels;
    using Words = BlockWords<kHasRows ? kPlanes : 1>;
    Words words;
    const uint2* from = nullptr;
    if constexpr (kHasRows) {
      levels.load(p, tile);
      from = Words::of_tile(p, tile) + range.begin * Words::kStride;
      words.load_half(0, from);
      words.load_half(1, from);
    }
    filler.read_offset(range.begin);
#pragma unroll
    for (int stage = 0; stage < kStages - 1; ++stage) {
      if (range.begin + stage < range.end) filler.fill(stage);
      commit_copies();
      if (range.begin + stage + 1 < range.end) filler.read_offset(range.begin + stage + 1);
    }
    int32_t read_stage = 0, fill_stage = kStages - 1;
    for (int32_t block = range.begin; block < range.end; ++block) {
      wait_for_copies<kStages - 2>();
      meet();
      if (block + kStages - 1 < range.end) filler.fill(fill_stage);
      commit_copies();
      if (block + kStages < range.end) filler.read_offset(block + kStages);
      if constexpr (kHasRows) {
        from += Words::kStride;
#pragma unroll
        for (int slice = 0; slice < 4; ++slice) {
          uint32_t a[2][4];
          unpack(words, levels, slice, a);
          // A half is read again as soon as its last slice has been unpacked.
          if (slice % 2 == 1 && block + 1 < range.end) words.load_half(slice / 2, from);
#pragma unroll
          for (int pair = 0; pair < kWarpPixels / 16; ++pair) {
            uint32_t b[4];
            reader.read(read_stage * kPixels * kBlockColumns, slice, pair, b);
#pragma unroll
            for (int fragment = 0; fragment < 2; ++fragment) {
              multiply_add(sums.fragments[fragment][2 * pair], a[fragment], b[0], b[1]);
              multiply_add(sums.fragments[fragment][2 * pair + 1], a[fragment], b[2], b[3]);
            }
          }
        }
      }
      read_stage = read_stage == kStages - 1 ? 0 : read_stage + 1;
      fill_stage = fill_stage == kStages - 1 ? 0 : fill_stage + 1;
    }
  }
};

// A lane has two neighbouring pixels of every eight, in four rows.
template <typename Element, int kPixels>
__device__ __forceinline__ void finish_tile(const Problem& p, int32_t tile, int32_t first_pixel,
                                            const TileSums<kPixels>& sums) {
  const int32_t lane = threadIdx.x % 32, first_row = tile * kTileRows + lane / 4;
  const RowEpilogue rows[4] = {RowEpilogue(p, first_row), RowEpilogue(p, first_row + 8),
                               RowEpilogue(p, first_row + 16), RowEpilogue(p, first_row + 24)};
  OutputCursor pixel(p, first_pixel + lane % 4 * 2);
#pragma unroll
  for (int column = 0; column < kPixels / 8; ++column) {
    OutputCursor next = pixel;
    next.advance(p, 1);
#pragma unroll
    for (int row = 0; row < 4; ++row) {
      const int32_t* pair = sums.fragments[row / 2][column] + row % 2 * 2;
      store_outputs<Element>(p, rows[row], pixel, next, pair[0], pair[1]);
    }
    pixel.advance(p, 8);
  }
}

// Grid: row blocks, pixel tiles, groups * splits.
template <int kPixels, int kTiles, int kWidest>
__device__ __forceinline__ void gemm(const Problem& p) {
  constexpr int kWarpPixels = kPixels * kTiles / kGemmWarps;
  const int32_t warp = threadIdx.x / 32;
  const int32_t group = blockIdx.z / p.cut.splits, split = blockIdx.z % p.cut.splits;
  const int32_t group_tile = blockIdx.x * kTiles + warp % kTiles;
  const int32_t tile = group * p.group_tiles + group_tile;
  const int32_t block_pixel = blockIdx.y * kPixels, warp_pixel = warp / kTiles * kWarpPixels;
  const bool has_rows = group_tile < p.group_tiles;
  const int32_t planes = has_rows ? p.layer.tile_begins[tile + 1] - p.layer.tile_begins[tile] : 0;
  const ColumnRange range(p, split);
  StageFiller<kPixels> filler(p, group, block_pixel);
  const StageReader reader(warp_pixel);
  TileSums<kWarpPixels> sums;
  with_planes<0, kWidest>(planes,
                          TileProduct<kPixels, kWarpPixels>{p, range, tile, filler, reader, sums});
  const int32_t output = (group * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const auto sum = [&](int i) -> int32_t& { return sums.numbered(i); };
  if (!last_split<TileSums<kWarpPixels>::kCount, kGemmThreads>(p, output, split, sum,
                                                               shared_memory<uint32_t>())) {
    return;
  }
  if (!has_rows) return;
  if (p.call.float16 != 0) {
    finish_tile<Float16, kWarpPixels>(p, tile, block_pixel + warp_pixel, sums);
  } else {
    finish_tile<float, kWarpPixels>(p, tile, block_pixel + warp_pixel, sums);
  }
}

}  // namespace mpq
