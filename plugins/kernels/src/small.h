// Few pixels: every weight is read for at most 32 of them, so reading is what takes time.
//
// A thread block has one tile of rows; its warps share the columns, each with blocks of its own,
// and add up what they have at the end. Activations are few and come from the caches as the tensor
// cores want them.
#pragma once

#include "epilogue.h"
#include "kernels.h"
#include "levels.h"
#include "pixels.h"
#include "splits.h"
#include "tile_sums.h"

namespace mpq {

// A thread finishes one of so many sums that it has after the warps are added up.
template <int kPixels>
inline constexpr int kOwnSums = TileSums<kPixels>::kCount / kSmallWarps;

// Thread blocks of a multiprocessor: tables of many planes, and sums of many pixels, want
// registers.
template <int kPixels, int kWidest>
inline constexpr int kSmallResidents = kWidest <= kFewPlanes && kPixels <= 16 ? 2 : 1;

// A lane's B operands: four columns of pixel lane / 4 of every eight.
template <int kPixels>
class PixelReader {
 public:
  static constexpr int kColumns = kPixels / 8;

  __device__ __forceinline__ PixelReader(const Problem& p, int32_t group)
      : base_(p.activations + group * p.group_bytes + threadIdx.x % 4 * 4),
        offsets_(reinterpret_cast<const int4*>(p.chunk_offsets)) {
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      const int32_t pixel = 8 * i + threadIdx.x % 32 / 4;
      pixels_[i] = first_byte(p, min(pixel, p.pixels - 1));
    }
  }

  // Where the chunks of a block lie.
  __device__ __forceinline__ void read_offsets(int32_t block) {
    const int4 first = offsets_[2 * block], last = offsets_[2 * block + 1];
    chunks_[0] = first.x, chunks_[1] = first.y, chunks_[2] = first.z, chunks_[3] = first.w;
    chunks_[4] = last.x, chunks_[5] = last.y, chunks_[6] = last.z, chunks_[7] = last.w;
  }

  __device__ __forceinline__ uint32_t read(int column, int chunk) const {
    if (chunks_[chunk] == kNoColumn) return 0;
    const auto place = static_cast<uint32_t>(pixels_[column] + chunks_[chunk]);
    return *reinterpret_cast<const uint32_t*>(base_ + place);
  }

 private:
  const int8_t* base_;
  const int4* offsets_;
  int32_t chunks_[kBlockChunks];
  int32_t pixels_[kColumns];
};

// One warp's sums over its share of a range of the columns.
template <int kPixels>
struct SmallTileProduct {
  const Problem& p;
  const ColumnRange& range;
  int32_t tile;
  PixelReader<kPixels>& pixels;
  TileSums<kPixels>& sums;

  template <int kPlanes>
  __device__ __forceinline__ void run() const {
    TileLevels<kPlanes> levels;
    levels.load(p, tile);
    using Words = BlockWords<kPlanes>;
    const uint2* from = Words::of_tile(p, tile);
    Words words, next;
    int32_t block = range.begin + threadIdx.x / 32;
    if (block < range.end) {
      next.load_half(0, from + block * Words::kStride);
      next.load_half(1, from + block * Words::kStride);
    }
    for (; block < range.end; block += kSmallWarps) {
      words = next;
      if (block + kSmallWarps < range.end) {
        next.load_half(0, from + (block + kSmallWarps) * Words::kStride);
        next.load_half(1, from + (block + kSmallWarps) * Words::kStride);
      }
      pixels.read_offsets(block);
#pragma unroll
      for (int slice = 0; slice < 4; ++slice) {
        uint32_t a[2][4];
        unpack(words, levels, slice, a);
#pragma unroll
        for (int column = 0; column < kPixels / 8; ++column) {
          const uint32_t b0 = pixels.read(column, 2 * slice);
          const uint32_t b1 = pixels.read(column, 2 * slice + 1);
#pragma unroll
          for (int fragment = 0; fragment < 2; ++fragment) {
            multiply_add(sums.fragments[fragment][column], a[fragment], b0, b1);
          }
        }
      }
    }
  }
};

// What this warp has of every lane's sums: number i of a lane is warp i % kSmallWarps' to finish.
template <typename Element, int kPixels>
__device__ __forceinline__ void finish_small(const Problem& p, int32_t tile,
                                             const int32_t (&own)[kOwnSums<kPixels>]) {
  const int32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
  for (int i = 0; i < kOwnSums<kPixels>; ++i) {
    const int number = i * kSmallWarps + warp, fragment = number / (TileSums<kPixels>::kCount / 2);
    const int column = number / 4 % (kPixels / 8), corner = number % 4;
    const RowEpilogue row(p, tile * kTileRows + 16 * fragment + corner / 2 * 8 + lane / 4);
    const OutputCursor pixel(p, 8 * column + lane % 4 * 2 + corner % 2);
    store_output<Element>(p, row, pixel, own[i]);
  }
}

// Grid: tiles of all groups, splits.
template <int kPixels, int kWidest>
__device__ __forceinline__ void multiply_small(const Problem& p) {
  constexpr int kSums = TileSums<kPixels>::kCount, kOwn = kOwnSums<kPixels>;
  const int32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int32_t tile = blockIdx.x, split = blockIdx.y;
  const int32_t planes = p.layer.tile_begins[tile + 1] - p.layer.tile_begins[tile];
  const ColumnRange range(p, split);
  PixelReader<kPixels> pixels(p, tile / p.group_tiles);
  TileSums<kPixels> sums;
  with_planes<1, kWidest>(planes, SmallTileProduct<kPixels>{p, range, tile, pixels, sums});

  auto* shared = shared_memory<int32_t>();
#pragma unroll
  for (int i = 0; i < kSums; ++i) shared[(warp * kSums + i) * 32 + lane] = sums.numbered(i);
  meet();
  int32_t own[kOwn];
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    own[i] = 0;
#pragma unroll
    for (int other = 0; other < kSmallWarps; ++other) {
      own[i] += shared[(other * kSums + i * kSmallWarps + warp) * 32 + lane];
    }
  }
  const auto sum = [&](int i) -> int32_t& { return own[i]; };
  if (!last_split<kOwn, kSmallThreads>(p, tile, split, sum, shared_memory<uint32_t>())) return;
  if (p.call.float16 != 0) {
    finish_small<Float16, kPixels>(p, tile, own);
  } else {
    finish_small<float, kPixels>(p, tile, own);
  }
}

}  // namespace mpq
