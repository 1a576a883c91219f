// What an ONNX node says of its layer, and the check of it.
#pragma once

#include <array>
#include <cstdint>
#include <stdexcept>
#include <vector>

namespace mpq {

// What breaks the contract; the caller adds the node's name.
struct ContractError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// A constant of the node as it lies in memory, with its shape. Nothing is owned.
template <typename T>
struct Tensor {
  const T* data = nullptr;
  std::vector<int64_t> shape;
};

// A convolution's geometry with ONNX's meanings.
struct Geometry {
  std::array<int64_t, 2> kernel_shape{1, 1}, strides{1, 1};
  std::array<int64_t, 4> pads{};  // top, left, bottom, right
  std::array<int64_t, 2> dilations{1, 1};
  int64_t group = 1;
};

// Everything that defines one layer, in the names and order of the ONNX node.
struct LayerDescription {
  bool is_conv = false;
  Geometry conv;  // 1 x 1 where the layer is linear
  int64_t act_bits = 0;
  int64_t columns = 0;  // K
  std::vector<int64_t> plane_rows;
  Tensor<float> act_scale;
  Tensor<int32_t> act_zero_point;
  Tensor<int32_t> planes;
  Tensor<int8_t> steps;
  Tensor<float> scale;
  Tensor<int32_t> row_order;
  Tensor<float> bias;
  Tensor<float> input_factor;
  Tensor<int8_t> input_shift;
};

// Raises ContractError unless the layer keeps the whole contract. Reads no more than the shapes say
// is there.
void check(const LayerDescription& layer);

// I, of a layer whose columns divide into the kernel's taps.
int64_t input_channels(const LayerDescription& layer);

}  // namespace mpq
