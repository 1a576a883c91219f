#include "attention.h"

#include <algorithm>

#include "kernels/attention.h"
#include "kernels/kernels.h"
#include "packed_weight.h"
#include "scratch.h"

namespace mpq {
namespace {

// Into how many pieces a head's queries are cut: one where heads alone keep the threads busy, for
// every piece reads all keys and values anew.
int64_t parts_of(const AttentionShape& shape, int64_t heads, int64_t threads) {
  constexpr int64_t kFewQueries = 128, kPiecesPerThread = 2;
  if (threads == 1) return 1;
  const int64_t wanted = divided_up(kPiecesPerThread * threads, heads);
  return std::clamp<int64_t>(shape.queries / kFewQueries, 1, wanted);
}

}  // namespace

void attention(const Attention& attention, const Kernels& kernels, const AttentionShape& shape,
               const float* query, const float* key, const float* value, float* y,
               Parallel& parallel) {
  if (shape.batch * shape.queries * shape.channels == 0) return;
  const AttentionKernels& kernel = *kernels.attention;
  const int64_t width = shape.channels / attention.heads;
  const int64_t bytes = kernel.scratch_bytes(shape.keys, width);
  const int64_t heads = shape.batch * attention.heads;
  const int64_t parts = parts_of(shape, heads, parallel.threads());
  const int64_t part_queries = divided_up(shape.queries, parts);
  const int64_t values = part_queries * shape.keys + (part_queries + 2 * shape.keys) * width;
  run_in_pieces(parallel, heads * parts, values, [&](int64_t index) {
    const int64_t head = index / parts, first = index % parts * part_queries;
    const int64_t queries = std::min(part_queries, shape.queries - first);
    if (queries <= 0) return;
    const int64_t batch = head / attention.heads, channel = head % attention.heads * width;
    const int64_t at_query = (batch * shape.queries + first) * shape.channels + channel;
    const int64_t at_key = batch * shape.keys * shape.channels + channel;
    thread_local Scratch scratch;
    kernel.attend({query + at_query, key + at_key, value + at_key, y + at_query, queries,
                   shape.keys, width, shape.channels, attention.scale},
                  scratch.reserve<uint8_t>(bytes));
  });
}

}  // namespace mpq
