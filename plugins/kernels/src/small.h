// Few pixels: every weight is read for at most 32 of them, so reading is what takes time.
//
// A thread block has one tile of rows; its warps share the columns, each with blocks of its own,
// and add up what they have at the end. Activations are few and come from the caches as the tensor
// cores want them.
#pragma once

#include <cstdint>

#include "epilogue.h"
#include "levels.h"
#include "pixels.h"
#include "problem.h"
#include "splits.h"

namespace mpq {

constexpr int kSmallWarps = 8;
constexpr int kSmallThreads = 32 * kSmallWarps;

// Sums of one thread before the warps are added up: 32 rows by kPixels over 32 lanes.
template <int kPixels>
inline constexpr int kSmallSums = kPixels;

template <int kPixels>
constexpr size_t small_shared_bytes() {
  return size_t{kSmallThreads} * kSmallSums<kPixels> * sizeof(int32_t);
}

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
  __device__ __forceinline__ void look_up(int32_t block) {
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

template <int kPixels, int kPlanes>
__device__ __forceinline__ void multiply_small_tile(const Problem& p, const Part& part,
                                                    int32_t tile, PixelReader<kPixels>& pixels,
                                                    int32_t (&sums)[2][kPixels / 8][4]) {
  const int32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  RowLevels<kPlanes> rows[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    rows[i].load(p.layer.steps + tile * kTileRows + 8 * i + lane / 4, p.padded_rows);
  }
  using Words = BlockWords<kPlanes>;
  const uint2* from = reinterpret_cast<const uint2*>(p.layer.words) + lane +
                      int64_t{p.layer.tile_begins[tile]} * p.blocks * BlockWords<1>::kStride;
  Words words, next;
  int32_t block = part.begin + warp;
  if (block < part.end) {
    next.load_half(0, from + block * Words::kStride);
    next.load_half(1, from + block * Words::kStride);
  }
  for (; block < part.end; block += kSmallWarps) {
    words = next;
    if (block + kSmallWarps < part.end) {
      next.load_half(0, from + (block + kSmallWarps) * Words::kStride);
      next.load_half(1, from + (block + kSmallWarps) * Words::kStride);
    }
    pixels.look_up(block);
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      uint32_t a[2][4];
      unpack(words, rows, step, a);
#pragma unroll
      for (int column = 0; column < kPixels / 8; ++column) {
        const uint32_t b0 = pixels.read(column, 2 * step);
        const uint32_t b1 = pixels.read(column, 2 * step + 1);
#pragma unroll
        for (int fragment = 0; fragment < 2; ++fragment) {
          multiply_add(sums[fragment][column], a[fragment], b0, b1);
        }
      }
    }
  }
}

template <int kPixels, int kPlanes>
__device__ __forceinline__ void multiply_small_planes(const Problem& p, const Part& part,
                                                      int32_t tile, int32_t planes,
                                                      PixelReader<kPixels>& pixels,
                                                      int32_t (&sums)[2][kPixels / 8][4]) {
  if (planes == kPlanes) return multiply_small_tile<kPixels, kPlanes>(p, part, tile, pixels, sums);
  if constexpr (kPlanes > 1) {
    multiply_small_planes<kPixels, kPlanes - 1>(p, part, tile, planes, pixels, sums);
  }
}

// What this warp has of every lane's sums: number i of a lane is warp i % kSmallWarps' to finish.
template <typename Element, int kPixels>
__device__ __forceinline__ void finish_small(
    const Problem& p, int32_t tile, const int32_t (&mine)[kSmallSums<kPixels> / kSmallWarps]) {
  const int32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
  for (int i = 0; i < kSmallSums<kPixels> / kSmallWarps; ++i) {
    const int sum = i * kSmallWarps + warp, fragment = sum / (kSmallSums<kPixels> / 2);
    const int column = sum / 4 % (kPixels / 8), part = sum % 4;
    const RowEpilogue row(p, tile * kTileRows + 16 * fragment + part / 2 * 8 + lane / 4);
    const OutputCursor pixel(p, 8 * column + lane % 4 * 2 + part % 2);
    store_output<Element>(p, row, pixel, mine[i]);
  }
}

// Grid: tiles of all groups, splits.
template <int kPixels, int kWidest>
__global__ void __launch_bounds__(kSmallThreads, kWidest <= kFewPlanes && kPixels <= 16 ? 2 : 1)
    multiply_small(const Problem p) {
  constexpr int kSums = kSmallSums<kPixels>;
  const int32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int32_t tile = blockIdx.x, split = blockIdx.y;
  const int32_t planes = p.layer.tile_begins[tile + 1] - p.layer.tile_begins[tile];
  PixelReader<kPixels> pixels(p, tile / p.group_tiles);
  int32_t sums[2][kPixels / 8][4] = {};
  multiply_small_planes<kPixels, kWidest>(p, Part(p, split), tile, planes, pixels, sums);

  auto* shared = shared_memory<int32_t>();
#pragma unroll
  for (int i = 0; i < kSums; ++i) {
    shared[(warp * kSums + i) * 32 + lane] = sums[i / (kSums / 2)][i / 4 % (kPixels / 8)][i % 4];
  }
  __syncthreads();
  int32_t mine[kSums / kSmallWarps];
#pragma unroll
  for (int i = 0; i < kSums / kSmallWarps; ++i) {
    mine[i] = 0;
#pragma unroll
    for (int other = 0; other < kSmallWarps; ++other) {
      mine[i] += shared[(other * kSums + i * kSmallWarps + warp) * 32 + lane];
    }
  }
  if (!last_split<kSums / kSmallWarps, kSmallThreads>(p, tile, split, mine,
                                                      shared_memory<uint32_t>())) {
    return;
  }
  if (p.call.float16 != 0) {
    finish_small<Half, kPixels>(p, tile, mine);
  } else {
    finish_small<float, kPixels>(p, tile, mine);
  }
}

}  // namespace mpq
