// A quantised layer of the bit-plane contract (docs/format.md) on the CPU.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace mpq {

struct Kernels;

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
  std::array<int64_t, 2> kernel_shape, strides;
  std::array<int64_t, 4> pads;  // top, left, bottom, right
  std::array<int64_t, 2> dilations;
  int64_t group;
};

// Everything that defines one layer, in the names and order of the ONNX node.
struct LayerDescription {
  bool is_conv = false;
  Geometry conv{};  // of a convolution
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

// Runs work(i) for every i below count, in any order, perhaps at once; returns when all are done.
// `work` must not throw.
class Parallel {
 public:
  using Work = void (*)(void* state, std::size_t index);
  virtual void run(Work work, void* state, std::size_t count) = 0;
  // How many pieces are worth making.
  virtual int64_t threads() const = 0;

 protected:
  ~Parallel() = default;
};

// Immutable once made: any number of threads may call it at once. The description's constants stay
// where they are, packed, and must outlive the layer.
class Layer {
 public:
  // Checks every invariant of the contract before anything is unpacked; throws ContractError.
  Layer(const LayerDescription& description, const Kernels& kernels);

  // Spatial size of the output for an input of height x width; throws ContractError where nothing
  // or too much comes out.
  std::array<int64_t, 2> output_size(int64_t height, int64_t width) const;

  int64_t input_channels() const { return channels_; }
  int64_t rows() const { return rows_; }
  int64_t steps() const { return table_size_; }

  // x float32 [count, K] to y float32 [count, O].
  void linear(const float* x, int64_t count, int32_t step, float* y, Parallel& parallel) const;

  // x float32 [batch, I, height, width] to y float32 [batch, O, H', W'].
  void conv(const float* x, int64_t batch, int64_t height, int64_t width, int32_t step, float* y,
            Parallel& parallel) const;

 private:
  // See layer.cpp.
  int64_t rows_ = 0, columns_ = 0, channels_ = 0, table_size_ = 0;
};

}  // namespace mpq
