// Computing in float32 what a node holds as float32 or float16.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../parallel.h"
#include "../scratch.h"
#include "float16.h"
#include "tensor.h"

namespace mpq::ort {

// Converts in pieces on the session's threads.
template <typename From, typename To, To (*convert)(From)>
void converted(const From* from, To* to, int64_t size, Parallel& parallel) {
  run_all(parallel, (size + kPieceValues - 1) / kPieceValues, [&](int64_t piece) {
    const int64_t end = std::min(size, (piece + 1) * kPieceValues);
    for (int64_t i = piece * kPieceValues; i < end; ++i) to[i] = convert(from[i]);
  });
}

// An input's values, widened into `wide` where they are float16.
inline const float* as_float(const void* x, int64_t size, ElementType type, Scratch& wide,
                             Parallel& parallel) {
  if (type == kFloat) return static_cast<const float*>(x);
  float* const to = wide.reserve<float>(size);
  converted<uint16_t, float, widen>(static_cast<const uint16_t*>(x), to, size, parallel);
  return to;
}

// run(from, to) on float32 arrays of these sizes. float16 is widened first, and rounded once at the
// end.
template <typename Run>
void run_in_float(const void* x, int64_t x_size, void* y, int64_t y_size, ElementType type,
                  Parallel& parallel, const Run& run) {
  if (type == kFloat) return run(static_cast<const float*>(x), static_cast<float*>(y));
  thread_local Scratch x_wide, y_wide;
  float* to = y_wide.reserve<float>(y_size);
  run(as_float(x, x_size, type, x_wide, parallel), to);
  converted<float, uint16_t, narrow>(to, static_cast<uint16_t*>(y), y_size, parallel);
}

}  // namespace mpq::ort
