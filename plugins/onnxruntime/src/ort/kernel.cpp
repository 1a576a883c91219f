#include "kernel.h"

#include <algorithm>

#include "../kernels/kernels.h"
#include "../scratch.h"
#include "float16.h"
#include "node.h"
#include "session_threads.h"
#include "tensor.h"

namespace mpq::ort {
namespace {

const OrtValue* input_of(const OrtApi& api, const OrtKernelContext& context, Input input) {
  const OrtValue* value = nullptr;
  require(api, api.KernelContext_GetInput(&context, input, &value));
  if (value == nullptr) throw ContractError(std::string("input ") + name_of(input) + " is missing");
  return value;
}

TensorInfo linear_output(const Layer& layer, const TensorInfo& x) {
  if (x.rank < 1 || x.dims[x.rank - 1] != layer.input_channels()) {
    throw ContractError("X is " + text_of(x) + ", expected [..., " +
                        std::to_string(layer.input_channels()) + "]");
  }
  TensorInfo y = x;
  y.dims[x.rank - 1] = layer.rows();
  return y;
}

TensorInfo conv_output(const Layer& layer, const TensorInfo& x) {
  if (x.rank != 4 || x.dims[1] != layer.input_channels()) {
    throw ContractError("X is " + text_of(x) + ", expected [N, " +
                        std::to_string(layer.input_channels()) + ", H, W]");
  }
  const auto [height, width] = layer.output_size(x.dims[2], x.dims[3]);
  TensorInfo y = x;
  y.dims[1] = layer.rows();
  y.dims[2] = height;
  y.dims[3] = width;
  return y;
}

// Converts in pieces on the session's threads.
template <typename From, typename To, To (*convert)(From)>
void converted(const From* from, To* to, int64_t size, Parallel& parallel) {
  constexpr int64_t kPiece = 1 << 15;
  struct State {
    const From* from;
    To* to;
    int64_t size;
  } state{from, to, size};
  parallel.run(
      [](void* opaque, std::size_t index) {
        const State& all = *static_cast<State*>(opaque);
        const int64_t begin = static_cast<int64_t>(index) * kPiece;
        const int64_t end = std::min(all.size, begin + kPiece);
        for (int64_t i = begin; i < end; ++i) all.to[i] = convert(all.from[i]);
      },
      &state, static_cast<std::size_t>((size + kPiece - 1) / kPiece));
}

}  // namespace

Kernel::Kernel(const OrtApi& api, const OrtKernelInfo& info, std::string node, bool is_conv)
    : api_(api),
      node_(std::move(node)),
      is_conv_(is_conv),
      layer_(describe(api, info, is_conv), chosen_kernels()) {}

int32_t Kernel::step_of(const OrtKernelContext& context) const {
  const OrtValue* value = input_of(api_, context, kStepIndex);
  const TensorInfo info = info_of(api_, value);
  if (info.type != kInt32 || info.rank != 1 || info.dims[0] != 1) {
    throw ContractError("step_index is " + name_of(info.type) + " " +
                        text_of(info) + ", expected int32 [1]");
  }
  const int32_t step = *static_cast<const int32_t*>(data_of(api_, value));
  if (step < 0 || step >= layer_.table_size()) {
    throw ContractError("step_index is " + std::to_string(step) + ", the tables have 0 to " +
                        std::to_string(layer_.table_size() - 1));
  }
  return step;
}

void Kernel::compute(OrtKernelContext& context) const {
  const OrtValue* x_value = input_of(api_, context, kX);
  const TensorInfo x = info_of(api_, x_value);
  if (x.type != kFloat && x.type != kFloat16) {
    throw ContractError("X is " + name_of(x.type) + ", expected float32 or float16");
  }
  const TensorInfo y = is_conv_ ? conv_output(layer_, x) : linear_output(layer_, x);
  const int32_t step = step_of(context);
  OrtValue* y_value = nullptr;
  require(api_, api_.KernelContext_GetOutput(&context, 0, y.dims.data(), y.rank, &y_value));
  const int64_t x_size = product(x, x.rank), y_size = product(y, y.rank);
  if (y_size == 0) return;
  const void* x_data = data_of(api_, x_value);
  void* y_data = data_of(api_, y_value);

  SessionThreads threads(api_, context);
  const auto run = [&](const float* from, float* to) {
    if (is_conv_) {
      layer_.conv(from, x.dims[0], x.dims[2], x.dims[3], step, to, threads);
    } else {
      layer_.linear(from, product(x, x.rank - 1), step, to, threads);
    }
  };
  if (x.type == kFloat) {
    run(static_cast<const float*>(x_data), static_cast<float*>(y_data));
    return;
  }
  thread_local Scratch x_wide, y_wide;
  auto* from = x_wide.reserve<float>(x_size);
  auto* to = y_wide.reserve<float>(y_size);
  converted<uint16_t, float, widen>(static_cast<const uint16_t*>(x_data), from, x_size, threads);
  run(from, to);
  converted<float, uint16_t, narrow>(to, static_cast<uint16_t*>(y_data), y_size, threads);
}

}  // namespace mpq::ort
