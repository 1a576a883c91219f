// libFuzzer: descriptions of layers that nearly keep the contract, and inputs of any size for those
// that do. What breaks the contract must be refused; nothing may be read or written out of bounds.
#include <algorithm>
#include <cstring>

#include "kernels/kernels.h"
#include "layer.h"
#include "threads.h"

namespace {

// Numbers from the fuzzer's bytes; zeros when they are used up.
class Bytes {
 public:
  Bytes(const uint8_t* data, std::size_t size) : data_(data), size_(size) {}

  template <typename T>
  T any() {
    T value{};
    const std::size_t count = std::min(sizeof value, size_);
    std::memcpy(&value, data_, count);
    data_ += count;
    size_ -= count;
    return value;
  }

  int64_t below(int64_t end) { return any<uint8_t>() % end; }

  // As `usual` says, but any number at all once in a while.
  int64_t mostly(int64_t usual) { return any<uint8_t>() == 0xFF ? any<int64_t>() : usual; }

 private:
  const uint8_t* data_;
  std::size_t size_;
};

// A layer's arrays, each exactly as large as its shape says, so that reads beside it are seen.
struct Arrays {
  std::vector<float> act_scale, scale, bias, input_factor;
  std::vector<int32_t> act_zero_point, planes, row_order;
  std::vector<int8_t> steps, input_shift;
};

// At most 4096 elements; now and then of another shape than `usual`.
template <typename T, typename Value>
mpq::Tensor<T> tensor(Bytes& bytes, std::vector<T>& held, std::vector<int64_t> usual, Value value) {
  std::size_t size = 1;
  for (int64_t& extent : usual) {
    if (bytes.any<uint8_t>() == 0xFF) extent = bytes.below(65);
    size *= static_cast<std::size_t>(extent);
  }
  if (bytes.any<uint8_t>() == 0xFF) usual.push_back(1);
  held.resize(size);
  for (T& element : held) element = static_cast<T>(value());
  held.shrink_to_fit();
  return {held.data(), usual};
}

mpq::LayerDescription describe(Bytes& bytes, Arrays& arrays) {
  mpq::LayerDescription layer;
  layer.is_conv = bytes.below(2) != 0;
  int64_t group = 1, taps = 1;
  if (layer.is_conv) {
    mpq::Geometry& conv = layer.conv;
    group = 1 + bytes.below(3);
    conv.group = bytes.mostly(group);
    for (int64_t& value : conv.kernel_shape) {
      const int64_t size = 1 + bytes.below(4);
      taps *= size;
      value = bytes.mostly(size);
    }
    for (int64_t& value : conv.strides) value = bytes.mostly(1 + bytes.below(3));
    for (int64_t& value : conv.dilations) value = bytes.mostly(1 + bytes.below(3));
    for (int64_t& value : conv.pads) value = bytes.mostly(bytes.below(4));
  }
  const int64_t channels = 1 + bytes.below(20), rows = group * (1 + bytes.below(12));
  const int64_t columns = taps * channels, words = (columns + 31) / 32;
  layer.columns = bytes.mostly(columns);
  const int64_t act_bits = 2 + bytes.below(7);
  layer.act_bits = bytes.mostly(act_bits);
  const int64_t planes = 1 + bytes.below(8), table = 1 + bytes.below(2);
  int64_t stored = 0, above = rows;
  for (int64_t p = 0; p < planes; ++p) {
    if (p > 0 && group == 1) above = 1 + bytes.below(above);
    layer.plane_rows.push_back(bytes.mostly(above));
    stored += above;
  }

  const auto normal = [&] {
    const uint8_t drawn = bytes.any<uint8_t>();
    return drawn == 0xFF ? bytes.any<float>() : static_cast<float>(1 + drawn) / 16.0f;
  };
  layer.act_scale = tensor(bytes, arrays.act_scale, {table}, normal);
  layer.act_zero_point = tensor(bytes, arrays.act_zero_point, {table},
                                [&] { return bytes.mostly(bytes.below(int64_t{1} << act_bits)); });
  int64_t word = 0;
  layer.planes = tensor(bytes, arrays.planes, {stored, words}, [&]() -> uint32_t {
    const bool last = ++word % words == 0 && columns % 32 != 0;
    const uint32_t drawn = bytes.any<uint32_t>();
    return last ? drawn & ((1u << columns % 32) - 1) : drawn;
  });
  int64_t element = 0;
  layer.steps = tensor(bytes, arrays.steps, {1 + planes, rows}, [&]() -> int64_t {
    const int64_t plane = element / rows - 1, row = element % rows;
    ++element;
    if (plane < 0) return bytes.mostly(-bytes.below(128));
    const bool owned = plane < planes && row < layer.plane_rows[static_cast<std::size_t>(plane)];
    return bytes.mostly(owned ? bytes.below(128 / planes) : 0);
  });
  layer.scale = tensor(bytes, arrays.scale, {rows}, normal);
  int64_t row = 0;
  layer.row_order = tensor(bytes, arrays.row_order, {rows}, [&] { return bytes.mostly(row++); });
  layer.bias = tensor(bytes, arrays.bias, {rows}, normal);
  layer.input_factor = tensor(bytes, arrays.input_factor, {channels * group}, normal);
  layer.input_shift = tensor(bytes, arrays.input_shift, {channels * group},
                             [&] { return bytes.mostly(bytes.below(9 - act_bits)); });
  return layer;
}

// What is added to outputs of shape `y`, exactly as large as its shape says: nothing, any of the
// forms that there are, or a shape that is none.
mpq::Residual residual(Bytes& bytes, std::vector<float>& held, const std::vector<int64_t>& y,
                       bool is_conv) {
  const int64_t form = bytes.below(4);
  if (form == 3) return {};
  std::vector<int64_t> shape = y;
  if (form > 0) {
    std::fill(shape.begin() + std::min<std::ptrdiff_t>(2, y.size()), shape.end(), 1);
    if (form == 2) shape[0] = 1;
  }
  if (bytes.below(8) == 0) shape[bytes.below(shape.size())] = bytes.below(65);
  if (bytes.below(8) == 0) shape.push_back(1);
  if (bytes.below(8) == 0) shape.pop_back();
  const auto found =
      mpq::residual_form({shape.data(), shape.size()}, {y.data(), y.size()}, is_conv);
  std::size_t size = 1;
  for (const int64_t extent : shape) size *= static_cast<std::size_t>(extent);
  held.resize(size);
  for (float& value : held) value = bytes.any<float>();
  held.shrink_to_fit();
  return {held.data(), found};
}

void run(Bytes& bytes, const mpq::Layer& layer, bool is_conv) {
  constexpr int64_t kMost = 1 << 16;
  mpq::Threads threads(1 + bytes.below(3));
  const auto step = static_cast<int32_t>(bytes.below(layer.table_size()));
  const int64_t count = bytes.below(40), height = bytes.below(12), width = bytes.below(40);
  std::vector<float> x, y, held;
  const auto fill = [&](int64_t x_size, int64_t y_size) {
    x.resize(static_cast<std::size_t>(x_size));
    y.resize(static_cast<std::size_t>(y_size));
    for (float& value : x) value = bytes.any<float>();
  };
  if (!is_conv) {
    fill(count * layer.input_channels(), count * layer.rows());
    const mpq::Residual added = residual(bytes, held, {count, layer.rows()}, is_conv);
    layer.linear(x.data(), count, step, added.values, y.data(), threads);
    return;
  }
  layer.output_size(bytes.mostly(height), bytes.mostly(width));
  const auto size = layer.output_size(height, width);
  const int64_t batch = count % 3;
  if (size[0] > kMost || size[1] > kMost || batch * layer.rows() * size[0] * size[1] > kMost) {
    return;
  }
  fill(batch * layer.input_channels() * height * width, batch * layer.rows() * size[0] * size[1]);
  const mpq::Residual added =
      residual(bytes, held, {batch, layer.rows(), size[0], size[1]}, is_conv);
  layer.conv(x.data(), batch, height, width, step, added, y.data(), threads);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  static const std::vector<const mpq::Kernels*> kernels = mpq::available_kernels();
  Bytes bytes(data, size);
  const auto& chosen =
      *kernels[static_cast<std::size_t>(bytes.below(static_cast<int64_t>(kernels.size())))];
  Arrays arrays;
  const mpq::LayerDescription description = describe(bytes, arrays);
  try {
    const mpq::Layer layer(description, chosen);
    run(bytes, layer, description.is_conv);
  } catch (const mpq::ContractError&) {
    // Refused, as it should be.
  }
  return 0;
}
