// Attention without a mask, in floating point.
#pragma once

#include <cstdint>

#include "parallel.h"

namespace mpq {

struct Kernels;

struct Attention {
  int64_t heads;
  float scale;
};

// Heads divide channels. All but `keys` may be 0.
struct AttentionShape {
  int64_t batch, queries, keys, channels;
};

// query and y float32 [batch, queries, channels], key and value [batch, keys, channels]:
// y = softmax(scale * query key^T) value, head by head. Keeps memory that grows with the tokens,
// not with their square, on every thread.
void attention(const Attention& attention, const Kernels& kernels, const AttentionShape& shape,
               const float* query, const float* key, const float* value, float* y,
               Parallel& parallel);

}  // namespace mpq
