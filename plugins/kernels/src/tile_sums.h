// A lane's sums of a tile of rows and the pixels of its warp, where mma leaves them.
#pragma once

#include "problem.h"

namespace mpq {

template <int kPixels>
struct TileSums {
  static constexpr int kColumns = kPixels / 8;
  static constexpr int kCount = 2 * kColumns * 4;

  // [fragment][column of eight pixels]: two pixels of one row, and two of the row eight further.
  int32_t fragments[2][kColumns][4] = {};

  // Number i of all of them.
  __device__ __forceinline__ int32_t& numbered(int i) {
    return fragments[i / (4 * kColumns)][i / 4 % kColumns][i % 4];
  }
};

}  // namespace mpq
