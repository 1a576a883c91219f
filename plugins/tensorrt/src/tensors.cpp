#include "tensors.h"

namespace mpq::trt {
namespace {

constexpr const char* kNames[kInputs + 1] = {
    "X",           "step_index", "words",       "tile_begins", "steps",          "scale",
    "bias",        "row_sums",   "output_rows", "act_scale",   "act_zero_point", "input_factor",
    "input_shift", "residual"};

constexpr Type kTypes[kInputs] = {Type::kOther, Type::kInt32,   Type::kInt32,   Type::kInt32,
                                  Type::kInt8,  Type::kFloat32, Type::kFloat32, Type::kInt32,
                                  Type::kInt32, Type::kFloat32, Type::kInt32,   Type::kFloat32,
                                  Type::kInt8};

bool takes_x(const PluginLayer& layer, const Tensor& x) {
  const bool known = x.type == Type::kFloat32 || x.type == Type::kFloat16;
  if (known && x.format == Format::kLinear) return true;
  if (layer.op == Operator::kLinear) return false;
  if (x.format == Format::kHwc) return x.type == Type::kFloat32;
  const bool whole = layer.kernel.channels % 8 == 0 && layer.kernel.rows % 8 == 0;
  return x.format == Format::kHwc8 && x.type == Type::kFloat16 && whole;
}

int64_t divided_up(int64_t value, int64_t by) { return (value + by - 1) / by; }

std::string text_of(const Shape& shape) {
  std::string text;
  for (int32_t i = 0; i < shape.rank; ++i) {
    text += (i == 0 ? "" : " x ") + std::to_string(shape.sides[i]);
  }
  return text.empty() ? "no axes" : text;
}

bool equal(const Shape& a, const Shape& b) {
  if (a.rank != b.rank) return false;
  for (int32_t i = 0; i < a.rank; ++i) {
    if (a.sides[i] != b.sides[i]) return false;
  }
  return true;
}

// One of the layer's own tensors and the shape that it must have.
void check(const PluginLayer& layer, const Shape* inputs, int32_t position, const Shape& wanted) {
  if (equal(inputs[position], wanted)) return;
  throw Refused(layer.node, std::string(kNames[position]) + " is " + text_of(inputs[position]) +
                                ", not " + text_of(wanted));
}

// One dimension of whole blocks; a tile has one plane at least.
void check_words(const PluginLayer& layer, const Shape& words, int64_t tiles) {
  const MpqLayer& kernel = layer.kernel;
  const int64_t taps = int64_t{kernel.kernel_shape[0]} * kernel.kernel_shape[1];
  const int64_t channels = divided_up(kernel.channels / kernel.group, kChannelAlignment);
  const int64_t blocks = divided_up(taps * channels * kChannelAlignment, kBlockColumns);
  const int64_t of_a_plane = blocks * kBlockColumns;
  const int64_t most = tiles * kernel.max_planes * of_a_plane;
  const int64_t size = words.rank == 1 ? words.sides[0] : 0;
  if (size >= tiles * of_a_plane && size <= most && size % of_a_plane == 0) return;
  throw Refused(layer.node, "words are " + text_of(words) + ", not whole planes of " +
                                std::to_string(tiles) + " tiles of 32 rows");
}

}  // namespace

bool takes(const PluginLayer& layer, const Tensor* tensors, int32_t position, int32_t inputs) {
  if (position < 0 || position > inputs || inputs < kInputs || inputs > kInputs + 1) return false;
  const Tensor& one = tensors[position];
  if (position == 0) return takes_x(layer, one);
  if (position < kInputs) return one.type == kTypes[position] && one.format == Format::kLinear;
  return one.type == tensors[0].type && one.format == tensors[0].format;
}

void check_rank(const PluginLayer& layer, int32_t rank) {
  const bool linear = layer.op == Operator::kLinear;
  if (linear ? rank >= 1 && rank <= kMaxRank : rank == 4) return;
  throw Refused(layer.node, "X has " + std::to_string(rank) + " axes");
}

void check_inputs(const PluginLayer& layer, const Shape* inputs, int32_t count) {
  if (count != kInputs && count != kInputs + 1) {
    throw Refused(layer.node, "it has " + std::to_string(count) + " inputs");
  }
  const MpqLayer& kernel = layer.kernel;
  const Shape& x = inputs[0];
  check_rank(layer, x.rank);
  const int64_t channels = x.sides[layer.op == Operator::kLinear ? x.rank - 1 : 1];
  if (channels != kernel.channels) {
    throw Refused(layer.node, "X is " + text_of(x) + ", the layer has " +
                                  std::to_string(kernel.channels) + " channels");
  }
  const int64_t tiles = divided_up(kernel.rows / kernel.group, kTileRows) * int64_t{kernel.group};
  const int64_t rows = tiles * kTileRows;
  const int64_t steps = inputs[9].rank == 1 && inputs[9].sides[0] > 0 ? inputs[9].sides[0] : 1;
  check(layer, inputs, 1, {1, {1}});
  check_words(layer, inputs[2], tiles);
  check(layer, inputs, 3, {1, {tiles + 1}});
  check(layer, inputs, 4, {2, {1 + int64_t{kernel.max_planes}, rows}});
  check(layer, inputs, 5, {1, {rows}});
  check(layer, inputs, 6, {1, {rows}});
  check(layer, inputs, 7, {2, {2, rows}});
  check(layer, inputs, 8, {1, {rows}});
  check(layer, inputs, 9, {1, {steps}});
  check(layer, inputs, 10, {1, {steps}});
  check(layer, inputs, 11, {1, {channels}});
  check(layer, inputs, 12, {1, {channels}});
  if (count == kInputs) return;
  Shape y = {x.rank, {}};
  const auto size_of = [](int64_t size, int32_t extra, int32_t stride) {
    return (size + extra) / stride + 1;
  };
  set_output_shape(layer, x.sides, x.rank, size_of, int64_t{kernel.rows}, y.sides);
  check(layer, inputs, kInputs, y);
}

}  // namespace mpq::trt
