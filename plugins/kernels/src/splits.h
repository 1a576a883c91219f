// Several thread blocks that share one output, each with sums over a range of the columns.
#pragma once

#include "instructions.h"
#include "problem.h"

namespace mpq {

// The columns that are this thread block's, in blocks.
struct ColumnRange {
  int32_t begin, end;

  __device__ __forceinline__ ColumnRange(const Problem& p, int32_t split)
      : begin(p.blocks * split / p.cut.splits), end(p.blocks * (split + 1) / p.cut.splits) {}
};

// Whether this thread block is the last of its output; then its sums are those of all of them.
// `sum(i)` is number i of this thread's kCount sums; thread by thread the blocks have sums of the
// same outputs. `ticket` is shared memory that is free.
template <int kCount, int kThreads, typename Sum>
__device__ __forceinline__ bool last_split(const Problem& p, int32_t output, int32_t split,
                                           const Sum& sum, uint32_t* ticket) {
  if (p.cut.splits == 1) return true;
  int32_t* partials = p.partials + int64_t{output} * p.cut.splits * kCount * kThreads;
  const auto place = [&](int of, int i) -> int64_t {
    return (int64_t{of} * kCount + i) * kThreads + threadIdx.x;
  };
#pragma unroll
  for (int i = 0; i < kCount; ++i) partials[place(split, i)] = sum(i);
  // What all threads wrote before they met is there for whoever draws a later ticket; and what
  // earlier ones left is there for all threads once they have met again.
  meet();
  if (threadIdx.x == 0) {
    __threadfence();
    *ticket = atomicAdd(p.tickets + output, 1u);
    __threadfence();
  }
  meet();
  if (*ticket != static_cast<uint32_t>(p.cut.splits) - 1) return false;
  // All have drawn: the next launch on this workspace finds the ticket as this one did.
  if (threadIdx.x == 0) p.tickets[output] = 0;
  for (int other = 0; other < p.cut.splits; ++other) {
    if (other == split) continue;
#pragma unroll
    for (int i = 0; i < kCount; ++i) sum(i) += load_fresh(partials + place(other, i));
  }
  return true;
}

}  // namespace mpq
