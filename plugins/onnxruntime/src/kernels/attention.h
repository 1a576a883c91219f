// What differs between processors in attention; heads and queries are shared out in attention.cpp.
#pragma once

#include <cstdint>

namespace mpq {

// Some queries of one head and all of its keys and values. Values of a token are adjacent, tokens
// lie `stride` values apart in all four; y may be none of the others.
struct AttentionHead {
  const float* query;
  const float* key;
  const float* value;
  float* y;
  int64_t queries, keys;  // tokens; at least one
  int64_t width;          // values of a token; at least one
  int64_t stride;
  float scale;
};

struct AttentionKernels {
  // What `attend` needs beside the head, 64-byte aligned. Grows with keys * width at most.
  int64_t (*scratch_bytes)(int64_t keys, int64_t width);

  // y = softmax(scale * query key^T) value.
  void (*attend)(const AttentionHead& head, void* scratch);
};

extern const AttentionKernels kPortableAttention, kAvx2Attention, kAvx512Attention, kAmxAttention;

}  // namespace mpq
