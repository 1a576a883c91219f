// Attention in float32 on registers whose lanes are queries: keys and values are read where they
// lie, a value at a time, and no sum runs across a register. Compiled once for each processor, as
// generic.h.
#pragma once

#include "attention.h"
#include "generic.h"

namespace mpq {
namespace {

constexpr int64_t kQueryRegisters = 2;
constexpr int64_t kBlockQueries = kQueryRegisters * kLanes;
constexpr int64_t kChunkKeys = 64;  // whose scores are in the first-level cache together

// Sums in registers: rows of keys, or of values, times queries.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int64_t kSumRows = 8;
#else
constexpr int64_t kSumRows = 4;
#endif

// One value of every query of a block.
struct Queries {
  Lanes lanes[kQueryRegisters];
};

// `first`, `first + distance` .. are rows of values that are multiplied with `queries` and summed
// over `count` of them, `step` values apart.
template <int64_t rows>
inline void add_products(const float* first, int64_t distance, int64_t step, const Queries* queries,
                         int64_t count, Queries* sums) {
  Lanes acc[rows][kQueryRegisters];
#pragma GCC unroll 8
  for (int64_t r = 0; r < rows; ++r)
#pragma GCC unroll 2
    for (int64_t i = 0; i < kQueryRegisters; ++i) acc[r][i] = sums[r].lanes[i];
  for (int64_t k = 0; k < count; ++k, first += step) {
    const Queries by = queries[k];
#pragma GCC unroll 8
    for (int64_t r = 0; r < rows; ++r) {
      const float value = first[r * distance];
#pragma GCC unroll 2
      for (int64_t i = 0; i < kQueryRegisters; ++i) acc[r][i] += by.lanes[i] * value;
    }
  }
#pragma GCC unroll 8
  for (int64_t r = 0; r < rows; ++r)
#pragma GCC unroll 2
    for (int64_t i = 0; i < kQueryRegisters; ++i) sums[r].lanes[i] = acc[r][i];
}

inline void add_all_products(const float* first, int64_t rows, int64_t distance, int64_t step,
                             const Queries* queries, int64_t count, Queries* sums) {
  int64_t row = 0;
  for (; row + kSumRows <= rows; row += kSumRows)
    add_products<kSumRows>(first + row * distance, distance, step, queries, count, sums + row);
  for (; row < rows; ++row)
    add_products<1>(first + row * distance, distance, step, queries, count, sums + row);
}

struct LanesScratch {
  Queries* query;   // [width], times scale and log2(e)
  Queries* sums;    // [width]
  Queries* scores;  // [kChunkKeys]

  LanesScratch(void* memory, int64_t width)
      : query(static_cast<Queries*>(memory)), sums(query + width), scores(sums + width) {}

  static int64_t bytes(int64_t, int64_t width) {
    return static_cast<int64_t>(sizeof(Queries)) * (2 * width + kChunkKeys);
  }
};

// 2^score of a score that is not above 0; 0 where that is less than 2^-126, NaN of NaN.
[[maybe_unused]] Lanes generic_weight(Lanes score) {
  constexpr float kLn2 = 0.693147181f;
  const Lanes least = all(-126.0f), nothing = {};
  const Lanes exponent = score < least ? least : score, whole = rounded(exponent);
  return score < least ? nothing : scaled_exp(whole, (exponent - whole) * kLn2);
}

// Scores are powers of two from here on. The largest so far is subtracted from all: sums of an
// earlier, smaller one are scaled to it.
template <Lanes (*weight)(Lanes)>
class LanesBlock {
 public:
  LanesBlock(const AttentionHead& head, int64_t first, void* memory)
      : head_(head),
        first_(first),
        count_(head.queries - first < kBlockQueries ? head.queries - first : kBlockQueries),
        scratch_(memory, head.width) {
    const float scale = head.scale * kLog2E;
    for (int64_t d = 0; d < head.width; ++d) {
      float values[kBlockQueries] = {};
      for (int64_t q = 0; q < count_; ++q)
        values[q] = head.query[(first + q) * head.stride + d] * scale;
      memcpy(&scratch_.query[d], values, sizeof values);
    }
    memset(scratch_.sums, 0, sizeof(Queries) * static_cast<size_t>(head.width));
    for (int64_t i = 0; i < kQueryRegisters; ++i) {
      largest_.lanes[i] = all(kLowest);
      total_.lanes[i] = Lanes{};
    }
  }

  void add_keys(int64_t key, int64_t count) {
    memset(scratch_.scores, 0, sizeof(Queries) * static_cast<size_t>(count));
    add_all_products(head_.key + key * head_.stride, count, head_.stride, 1, scratch_.query,
                     head_.width, scratch_.scores);
    for (int64_t i = 0; i < kQueryRegisters; ++i) {
      Lanes largest = largest_.lanes[i];
      for (int64_t k = 0; k < count; ++k) {
        const Lanes score = scratch_.scores[k].lanes[i];
        largest = score > largest ? score : largest;
      }
      const Lanes shrink = weight(largest_.lanes[i] - largest);
      Lanes total = total_.lanes[i] * shrink;
      for (int64_t k = 0; k < count; ++k) {
        const Lanes power = weight(scratch_.scores[k].lanes[i] - largest);
        scratch_.scores[k].lanes[i] = power;
        total += power;
      }
      for (int64_t d = 0; d < head_.width; ++d) scratch_.sums[d].lanes[i] *= shrink;
      largest_.lanes[i] = largest;
      total_.lanes[i] = total;
    }
    add_all_products(head_.value + key * head_.stride, head_.width, 1, head_.stride,
                     scratch_.scores, count, scratch_.sums);
  }

  void store() {
    for (int64_t d = 0; d < head_.width; ++d) {
      float values[kBlockQueries];
      for (int64_t i = 0; i < kQueryRegisters; ++i) scratch_.sums[d].lanes[i] /= total_.lanes[i];
      memcpy(values, &scratch_.sums[d], sizeof values);
      for (int64_t q = 0; q < count_; ++q) head_.y[(first_ + q) * head_.stride + d] = values[q];
    }
  }

 private:
  static constexpr float kLowest = -3e38f;  // finite: nothing is subtracted from itself infinite

  const AttentionHead& head_;
  const int64_t first_, count_;
  const LanesScratch scratch_;
  Queries largest_, total_;
};

template <Lanes (*weight)(Lanes)>
void attend_in_lanes(const AttentionHead& head, void* scratch) {
  for (int64_t first = 0; first < head.queries; first += kBlockQueries) {
    LanesBlock<weight> block(head, first, scratch);
    for (int64_t key = 0; key < head.keys; key += kChunkKeys)
      block.add_keys(key, head.keys - key < kChunkKeys ? head.keys - key : kChunkKeys);
    block.store();
  }
}

}  // namespace
}  // namespace mpq
