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
// Warps of different plane counts run different copies of the loop and meet at its barriers. A
// barrier counts whole warps; it does not matter that they come from different places.
#pragma once

#include <cstdint>

#include "epilogue.h"
#include "levels.h"
#include "pixels.h"
#include "problem.h"
#include "splits.h"

namespace mpq {

constexpr int kGemmWarps = 4;
constexpr int kGemmThreads = 32 * kGemmWarps;
constexpr int kStages = 3;

template <int kPixels>
constexpr size_t gemm_shared_bytes() {
  return size_t{kStages} * kPixels * kBlockColumns;
}

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
  __device__ __forceinline__ void look_up(int32_t block) {
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

  // Operands of pixels 16 * pair .. 16 * pair + 15 for columns 32 * step .. 32 * step + 31: the
  // first two words are those of the first eight pixels.
  __device__ __forceinline__ void read(uint32_t stage_bytes, int step, int pair,
                                       uint32_t (&b)[4]) const {
    const uint32_t chunk = (chunk_ + 2 * step) ^ swizzle_;
    load_matrices(b, row_ + stage_bytes + chunk * kChunk + pair * 16 * kBlockColumns);
  }

 private:
  SharedAddress row_;
  uint32_t chunk_, swizzle_;
};

// Of a warp with a tile and so many pixels.
template <int kPixels>
using TileSums = int32_t[2][kPixels / 8][4];

// One warp's sums over a part of the columns; a warp of no planes has no rows and only fills.
template <int kPixels, int kPlanes, int kWarpPixels>
__device__ __forceinline__ void multiply_tile(const Problem& p, const Part& part, int32_t tile,
                                              StageFiller<kPixels>& filler,
                                              const StageReader& reader,
                                              TileSums<kWarpPixels>& sums) {
  constexpr bool kHasRows = kPlanes > 0;
  const int32_t lane = threadIdx.x % 32;
  RowLevels<kHasRows ? kPlanes : 1> rows[4];
  using Words = BlockWords<kHasRows ? kPlanes : 1>;
  Words words;
  const uint2* from = reinterpret_cast<const uint2*>(p.layer.words) + lane;
  if constexpr (kHasRows) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      rows[i].load(p.layer.steps + tile * kTileRows + 8 * i + lane / 4, p.padded_rows);
    }
    from += int64_t{p.layer.tile_begins[tile]} * p.blocks * BlockWords<1>::kStride +
            part.begin * Words::kStride;
    words.load_half(0, from);
    words.load_half(1, from);
  }
  filler.look_up(part.begin);
#pragma unroll
  for (int stage = 0; stage < kStages - 1; ++stage) {
    if (part.begin + stage < part.end) filler.fill(stage);
    commit_copies();
    if (part.begin + stage + 1 < part.end) filler.look_up(part.begin + stage + 1);
  }
  int32_t read_stage = 0, fill_stage = kStages - 1;
  for (int32_t block = part.begin; block < part.end; ++block) {
    wait_for_copies<kStages - 2>();
    __syncthreads();
    if (block + kStages - 1 < part.end) filler.fill(fill_stage);
    commit_copies();
    if (block + kStages < part.end) filler.look_up(block + kStages);
    if constexpr (kHasRows) {
      from += Words::kStride;
#pragma unroll
      for (int step = 0; step < 4; ++step) {
        uint32_t a[2][4];
        unpack(words, rows, step, a);
        // A half is read again as soon as its last step has been unpacked.
        if (step % 2 == 1 && block + 1 < part.end) words.load_half(step / 2, from);
#pragma unroll
        for (int pair = 0; pair < kWarpPixels / 16; ++pair) {
          uint32_t b[4];
          reader.read(read_stage * kPixels * kBlockColumns, step, pair, b);
#pragma unroll
          for (int fragment = 0; fragment < 2; ++fragment) {
            multiply_add(sums[fragment][2 * pair], a[fragment], b[0], b[1]);
            multiply_add(sums[fragment][2 * pair + 1], a[fragment], b[2], b[3]);
          }
        }
      }
    }
    read_stage = read_stage == kStages - 1 ? 0 : read_stage + 1;
    fill_stage = fill_stage == kStages - 1 ? 0 : fill_stage + 1;
  }
}

template <int kPixels, int kPlanes, int kWarpPixels>
__device__ __forceinline__ void multiply_planes(const Problem& p, const Part& part, int32_t tile,
                                                int32_t planes, StageFiller<kPixels>& filler,
                                                const StageReader& reader,
                                                TileSums<kWarpPixels>& sums) {
  if (planes == kPlanes) {
    return multiply_tile<kPixels, kPlanes, kWarpPixels>(p, part, tile, filler, reader, sums);
  }
  if constexpr (kPlanes > 0) {
    multiply_planes<kPixels, kPlanes - 1, kWarpPixels>(p, part, tile, planes, filler, reader, sums);
  }
}

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
      const int32_t* pair = sums[row / 2][column] + row % 2 * 2;
      store_outputs<Element>(p, rows[row], pixel, next, pair[0], pair[1]);
    }
    pixel.advance(p, 8);
  }
}

// Grid: row blocks, pixel tiles, groups * splits.
template <int kPixels, int kTiles, int kWidest>
__global__ void __launch_bounds__(kGemmThreads, 2) gemm(const Problem p) {
  constexpr int kWarpPixels = kPixels * kTiles / kGemmWarps;
  const int32_t warp = threadIdx.x / 32;
  const int32_t group = blockIdx.z / p.cut.splits, split = blockIdx.z % p.cut.splits;
  const int32_t group_tile = blockIdx.x * kTiles + warp % kTiles;
  const int32_t tile = group * p.group_tiles + group_tile;
  const int32_t block_pixel = blockIdx.y * kPixels, warp_pixel = warp / kTiles * kWarpPixels;
  const bool has_rows = group_tile < p.group_tiles;
  const int32_t planes = has_rows ? p.layer.tile_begins[tile + 1] - p.layer.tile_begins[tile] : 0;
  StageFiller<kPixels> filler(p, group, block_pixel);
  constexpr int kSums = kWarpPixels;  // of a thread: 32 rows by kWarpPixels over 32 lanes
  union {
    TileSums<kWarpPixels> tile_sums;
    int32_t flat[kSums];
  } sums = {};
  multiply_planes<kPixels, kWidest, kWarpPixels>(p, Part(p, split), tile, planes, filler,
                                                 StageReader(warp_pixel), sums.tile_sums);
  const int32_t output = (group * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  if (!last_split<kSums, kGemmThreads>(p, output, split, sums.flat, shared_memory<uint32_t>())) {
    return;
  }
  if (!has_rows) return;
  if (p.call.float16 != 0) {
    finish_tile<Half, kWarpPixels>(p, tile, block_pixel + warp_pixel, sums.tile_sums);
  } else {
    finish_tile<float, kWarpPixels>(p, tile, block_pixel + warp_pixel, sums.tile_sums);
  }
}

}  // namespace mpq
