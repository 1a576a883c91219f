// Bit planes to int8 weights, four at a time.
//
// Planes are taken in groups of four. A group of n planes has n words for every 32 weights of a
// lane; from them come four selectors, whose eight nibbles are codes of n bits: the lower four of
// the row that the lane holds in the first eight of a fragment, the others of that in the last
// eight. One choose_bytes finds four codes in a table of eight bytes. A fourth plane has its own
// table: its bit is stored inverted, and where it is set choose_bytes gives the sign of a byte
// below 128: 0.
#pragma once

#include "instructions.h"
#include "problem.h"

namespace mpq {

constexpr int kGroupPlanes = 4;

// Planes of one group.
template <int kPlanes, int kGroup>
inline constexpr int kPlanesOfGroup =
    kPlanes - kGroupPlanes * kGroup < kGroupPlanes ? kPlanes - kGroupPlanes * kGroup : kGroupPlanes;

template <int kPlanes>
inline constexpr int kGroupsOf = (kPlanes + kGroupPlanes - 1) / kGroupPlanes;

// Selector `quarter` of a group's words.
template <int kPlanes>
__device__ __forceinline__ uint32_t selector(const uint32_t* words, int quarter) {
  if constexpr (kPlanes == 4) {
    return words[quarter];
  } else if constexpr (kPlanes == 3) {
    if (quarter < 3) return words[quarter] & 0x77777777u;
    return (words[0] >> 3 & 0x11111111u) | (words[1] >> 2 & 0x22222222u) |
           (words[2] >> 1 & 0x44444444u);
  } else if constexpr (kPlanes == 2) {
    return words[quarter / 2] >> 2 * (quarter % 2) & 0x33333333u;
  } else {
    return words[0] >> quarter & 0x11111111u;
  }
}

// Levels of one row by their codes. Rows of one group are found as they are; those of more than
// three planes are summed from `c0 + 128`, so that no byte ever carries into the next.
template <int kPlanes>
struct RowLevels {
  static constexpr int kGroups = kGroupsOf<kPlanes>;
  static constexpr bool kSummed = kPlanes > 3;

  uint32_t low[kGroups], high[kGroups], fourth[kGroups];

  // `steps` is this row's column of [1 + planes, stride].
  __device__ __forceinline__ void load(const int8_t* steps, int64_t stride) {
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
      const auto step = [&](int plane) -> uint32_t {
        const int index = kGroupPlanes * group + plane;
        return index < kPlanes ? static_cast<uint8_t>(steps[(1 + index) * stride]) : 0u;
      };
      const uint32_t offset = static_cast<uint8_t>(steps[0]) ^ 0x80u;
      uint32_t table = group == 0 ? offset * 0x01010101u : 0u;
      table += step(0) * 0x01000100u + step(1) * 0x01010000u;
      low[group] = table;
      high[group] = table + step(2) * 0x01010101u;
      fourth[group] = step(3) * 0x01010101u;
    }
    if (!kSummed) {
      low[0] ^= 0x80808080u;
      high[0] ^= 0x80808080u;
    }
  }

  // Four weights from the lower nibbles of one selector per group.
  __device__ __forceinline__ uint32_t weights(const uint32_t (&selectors)[kGroups]) const {
    uint32_t sum = group_levels<0>(selectors[0]);
    if constexpr (kGroups == 2) sum += group_levels<1>(selectors[1]);
    return kSummed ? sum ^ 0x80808080u : sum;
  }

 private:
  template <int kGroup>
  __device__ __forceinline__ uint32_t group_levels(uint32_t codes) const {
    constexpr int planes = kPlanesOfGroup<kPlanes, kGroup>;
    if constexpr (planes == 4) {
      return choose_bytes(low[kGroup], high[kGroup], codes & 0x77777777u) +
             choose_bytes(fourth[kGroup], fourth[kGroup], codes);
    } else {
      return choose_bytes(low[kGroup], planes == 3 ? high[kGroup] : low[kGroup], codes);
    }
  }
};

// Levels of the rows of a tile that a lane has: [2 * fragment], and 8 rows on [2 * fragment + 1].
template <int kPlanes>
struct TileLevels {
  RowLevels<kPlanes> rows[4];

  __device__ __forceinline__ void load(const Problem& p, int32_t tile) {
    const int8_t* steps = p.layer.steps + tile * kTileRows + threadIdx.x % 32 / 4;
#pragma unroll
    for (int i = 0; i < 4; ++i) rows[i].load(steps + 8 * i, p.padded_rows);
  }
};

// The words of a lane for one block of columns of a tile.
template <int kPlanes>
struct BlockWords {
  // Per lane of a warp, for a half of the columns: one plane of both fragments.
  static constexpr int64_t kHalfStride = 32 * kPlanes;
  static constexpr int64_t kStride = 2 * kHalfStride;

  uint2 words[2][kPlanes];  // [half][plane]: x is fragment 0's, y fragment 1's

  // This lane's place in the first block of a tile.
  static __device__ __forceinline__ const uint2* of_tile(const Problem& p, int32_t tile) {
    const int64_t begin = int64_t{p.layer.tile_begins[tile]} * p.blocks;
    return reinterpret_cast<const uint2*>(p.layer.words) + begin * BlockWords<1>::kStride +
           threadIdx.x % 32;
  }

  // `from` is this lane's place in the block.
  __device__ __forceinline__ void load_half(int half, const uint2* from) {
#pragma unroll
    for (int plane = 0; plane < kPlanes; ++plane) {
      words[half][plane] = load_once(from + half * kHalfStride + 32 * plane);
    }
  }
};

// The A operands of both fragments of a tile for a slice of a block: columns 32 * slice .. 32 *
// slice + 31.
template <int kPlanes>
__device__ __forceinline__ void unpack(const BlockWords<kPlanes>& block,
                                       const TileLevels<kPlanes>& levels, int slice,
                                       uint32_t (&a)[2][4]) {
  constexpr int groups = kGroupsOf<kPlanes>;
#pragma unroll
  for (int fragment = 0; fragment < 2; ++fragment) {
    uint32_t words[kPlanes];
#pragma unroll
    for (int plane = 0; plane < kPlanes; ++plane) {
      const uint2 both = block.words[slice / 2][plane];
      words[plane] = fragment == 0 ? both.x : both.y;
    }
#pragma unroll
    for (int sixteen = 0; sixteen < 2; ++sixteen) {
      const int quarter = 2 * (slice % 2) + sixteen;
      uint32_t first[groups], last[groups];
      first[0] = selector<kPlanesOfGroup<kPlanes, 0>>(words, quarter);
      if constexpr (groups == 2) {
        first[1] = selector<kPlanesOfGroup<kPlanes, 1>>(words + kGroupPlanes, quarter);
      }
#pragma unroll
      for (int group = 0; group < groups; ++group) last[group] = first[group] >> 16;
      a[fragment][2 * sixteen] = levels.rows[2 * fragment].weights(first);
      a[fragment][2 * sixteen + 1] = levels.rows[2 * fragment + 1].weights(last);
    }
  }
}

// Calls `product.run<planes>()`. All lanes of a warp have the same planes, kLeast..kMost; warps
// differ and run different variants of the code.
template <int kLeast, int kMost, typename Product>
__device__ __forceinline__ void with_planes(int32_t planes, const Product& product) {
  if (planes == kMost) {
    enter_variant(kMost);
    product.template run<kMost>();
  } else if constexpr (kLeast < kMost) {
    with_planes<kLeast, kMost - 1>(planes, product);
  }
}

}  // namespace mpq
