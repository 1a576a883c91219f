// Several thread blocks that share one output, each with sums over its part of the columns.
#pragma once

#include <cstdint>

#include "instructions.h"
#include "problem.h"

namespace mpq {

// The part of the columns that is this thread block's, in blocks.
struct Part {
  int32_t begin, end;

  __device__ __forceinline__ Part(const Problem& p, int32_t split)
      : begin(p.blocks * split / p.cut.splits), end(p.blocks * (split + 1) / p.cut.splits) {}
};

// Whether this thread block is the last of its output; then `sums` are those of all of them. Thread
// by thread the blocks hold sums of the same outputs. `flag` is shared memory that is free.
template <int kCount, int kThreads>
__device__ __forceinline__ bool last_split(const Problem& p, int32_t output, int32_t split,
                                           int32_t (&sums)[kCount], uint32_t* flag) {
  if (p.cut.splits == 1) return true;
  int32_t* partials = p.partials + int64_t{output} * p.cut.splits * kCount * kThreads;
  const auto place = [&](int of, int i) -> int64_t {
    return (int64_t{of} * kCount + i) * kThreads + threadIdx.x;
  };
#pragma unroll
  for (int i = 0; i < kCount; ++i) partials[place(split, i)] = sums[i];
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) *flag = atomicAdd(p.tickets + output, 1u);
  __syncthreads();
  if (*flag != static_cast<uint32_t>(p.cut.splits) - 1) return false;
  // All have drawn: the next launch on this workspace finds the ticket as this one did.
  if (threadIdx.x == 0) p.tickets[output] = 0;
  __threadfence();
  for (int other = 0; other < p.cut.splits; ++other) {
    if (other == split) continue;
#pragma unroll
    for (int i = 0; i < kCount; ++i) sums[i] += load_fresh(partials + place(other, i));
  }
  return true;
}

}  // namespace mpq
