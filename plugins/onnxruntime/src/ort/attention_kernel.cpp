#include "attention_kernel.h"

#include <cmath>
#include <cstring>

#include "../kernels/kernels.h"
#include "in_float.h"
#include "session_threads.h"

namespace mpq::ort {
namespace {

// Throws ContractError unless the three fit each other and the heads.
AttentionShape shape_of(const TensorInfo& query, const TensorInfo& key, const TensorInfo& value,
                        int64_t heads) {
  require_float(query, "query");
  if (query.rank != 3) throw ContractError("query is " + text_of(query) + ", expected [B, S, C]");
  const auto [batch, queries, channels] = std::array{query.dims[0], query.dims[1], query.dims[2]};
  if (channels % heads != 0) {
    throw ContractError("query is " + text_of(query) + ", its " + std::to_string(channels) +
                        " channels do not divide into " + std::to_string(heads) + " heads");
  }
  const bool fits = key.rank == 3 && key.dims[0] == batch && key.dims[2] == channels;
  if (key.type != query.type || !fits) {
    throw ContractError("key is " + name_of(key.type) + " " + text_of(key) + ", expected " +
                        name_of(query.type) + " [" + std::to_string(batch) + ", T, " +
                        std::to_string(channels) + "]");
  }
  if (value.type != key.type || !same_shape(value, key)) {
    throw ContractError("value is " + name_of(value.type) + " " + text_of(value) +
                        ", expected the key's " + name_of(key.type) + " " + text_of(key));
  }
  return {batch, queries, key.dims[1], channels};
}

Attention attention_of(const NodeReader& node) {
  const Attention attention{node.integer("num_heads"), node.real("scale")};
  if (attention.heads < 1) {
    throw ContractError("num_heads is " + std::to_string(attention.heads) + ", at least 1 is");
  }
  if (!std::isfinite(attention.scale)) throw ContractError("scale is not finite");
  return attention;
}

}  // namespace

AttentionKernel::AttentionKernel(const OrtApi& api, const OrtKernelInfo& info)
    : api_(api), kernels_(chosen_kernels()), attention_(attention_of(NodeReader(api, info))) {}

void AttentionKernel::compute(OrtKernelContext& context) const {
  const OrtValue* query_value = input_of(api_, context, 0, "query");
  const OrtValue* key_value = input_of(api_, context, 1, "key");
  const OrtValue* value_value = input_of(api_, context, 2, "value");
  const TensorInfo query = info_of(api_, query_value), key = info_of(api_, key_value);
  const AttentionShape shape = shape_of(query, key, info_of(api_, value_value), attention_.heads);
  OrtValue* y_value = nullptr;
  require(api_, api_.KernelContext_GetOutput(&context, 0, query.dims.data(), query.rank, &y_value));
  const int64_t size = product(query, query.rank), key_size = product(key, key.rank);
  if (size == 0) return;
  void* const y = data_of(api_, y_value);
  if (shape.keys == 0) {  // the sum of nothing
    std::memset(y, 0, static_cast<std::size_t>(size) * (query.type == kFloat ? 4 : 2));
    return;
  }
  SessionThreads threads(api_, context);
  thread_local Scratch key_wide, value_wide;
  const float* const keys =
      as_float(data_of(api_, key_value), key_size, key.type, key_wide, threads);
  const float* const values =
      as_float(data_of(api_, value_value), key_size, key.type, value_wide, threads);
  run_in_float(data_of(api_, query_value), size, y, size, query.type, threads,
               [&](const float* from, float* to) {
                 attention(attention_, kernels_, shape, from, keys, values, to, threads);
               });
}

}  // namespace mpq::ort
