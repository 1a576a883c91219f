#include "launches.h"

#include <cstdio>

namespace mpq::trt {
namespace {

constexpr size_t kAlignment = 256;
// At most what one of several thread blocks leaves of an output that they share, and its ticket:
// int32 sums of four tiles of 32 rows and 64 pixels.
constexpr size_t kSharedOutputBytes = 4 * (4 * 32 * 64 + kAlignment);
// There are never more of them for every multiprocessor.
constexpr size_t kSharingBlocks = 2;

// Sizes beyond int32 become 0, which the kernels refuse.
int32_t narrowed(int64_t size) {
  return size > 0 && size <= INT32_MAX ? static_cast<int32_t>(size) : 0;
}

MpqCall call_for(const PluginLayer& layer, const Shape& x, const Tensor& format) {
  MpqCall call = {};
  if (layer.op == Operator::kLinear) {
    int64_t rows = 1;
    for (int32_t i = 0; i + 1 < x.rank; ++i) rows = narrowed(rows) * x.sides[i];
    call.batch = call.height = 1;
    call.width = narrowed(rows);
  } else {
    call.batch = narrowed(x.sides[0]);
    call.height = narrowed(x.sides[2]);
    call.width = narrowed(x.sides[3]);
  }
  call.float16 = format.type == Type::kFloat16;
  call.channels_last = format.format != Format::kLinear;
  call.multiprocessors = layer.multiprocessors;
  return call;
}

}  // namespace

size_t workspace_bytes(const PluginLayer& layer, const Shape& x, const Tensor& format) {
  check_rank(layer, x.rank);
  const MpqCall call = call_for(layer, x, format);
  const size_t needed = mpq_workspace_bytes(&layer.kernel, &call);
  if (needed == 0) {
    throw Refused(layer.node, "the kernels do not take an input of " + std::to_string(call.batch) +
                                  " x " + std::to_string(call.height) + " x " +
                                  std::to_string(call.width) +
                                  ": it has no output, or more than 2 GiB of activations");
  }
  return needed + kSharingBlocks * static_cast<size_t>(layer.multiprocessors) * kSharedOutputBytes;
}

void check_largest(const PluginLayer& layer, const Shape* inputs, int32_t count,
                   const Tensor& format) {
  check_inputs(layer, inputs, count);
  static_cast<void>(workspace_bytes(layer, inputs[0], format));
}

bool enqueue(const PluginLayer& layer, const Shape& x, const Tensor& format,
             const Launches& launches, Failure& failure) noexcept {
  const void* const* in = launches.inputs;
  MpqLayer described = layer.kernel;
  described.words = static_cast<const int32_t*>(in[2]);
  described.tile_begins = static_cast<const int32_t*>(in[3]);
  described.steps = static_cast<const int8_t*>(in[4]);
  described.scale = static_cast<const float*>(in[5]);
  described.bias = static_cast<const float*>(in[6]);
  described.row_sums = static_cast<const int32_t*>(in[7]);
  described.output_rows = static_cast<const int32_t*>(in[8]);
  described.act_scale = static_cast<const float*>(in[9]);
  described.act_zero_point = static_cast<const int32_t*>(in[10]);
  described.input_factor = static_cast<const float*>(in[11]);
  described.input_shift = static_cast<const int8_t*>(in[12]);
  MpqCall call = call_for(layer, x, format);
  call.x = in[0];
  call.step_index = static_cast<const int32_t*>(in[1]);
  call.residual = launches.residual ? in[kInputs] : nullptr;
  call.y = launches.y;
  call.workspace = launches.workspace;
  call.workspace_bytes = SIZE_MAX;  // TensorRT does not say it again
  int status = mpq_quantize(&described, &call, launches.stream);
  if (status == MPQ_OK) status = mpq_multiply(&described, &call, launches.stream);
  if (status == MPQ_OK) return true;
  failure.status = status;
  std::snprintf(failure.text, sizeof(failure.text), "%s: %s an input of %d x %d x %d: %s",
                layer.node.c_str(),
                status > 0 ? "the GPU refused a launch for" : "the kernels do not take", call.batch,
                call.height, call.width, mpq_status_text(status));
  return false;
}

}  // namespace mpq::trt
