// A quantised layer of the bit-plane contract (docs/format.md) on the CPU.
#pragma once

#include <array>
#include <cstdint>
#include <memory>

#include "description.h"
#include "parallel.h"
#include "residual.h"

namespace mpq {

struct Kernels;

class PackedWeight;

// Immutable once made: any number of threads may call it at once. The description's constants stay
// where they are, packed, and must outlive the layer.
class Layer {
 public:
  // Checks every invariant of the contract before anything is unpacked; throws ContractError.
  Layer(const LayerDescription& description, const Kernels& kernels);
  ~Layer();
  Layer(Layer&&) noexcept;
  Layer& operator=(Layer&&) noexcept;

  // Spatial size of a convolution's output for an input of height x width; throws ContractError
  // where nothing, or more than can be addressed, comes out.
  std::array<int64_t, 2> output_size(int64_t height, int64_t width) const;

  int64_t input_channels() const;  // of a linear layer, K
  int64_t rows() const;            // output channels, O
  int64_t table_size() const;      // sampler steps, T

  // x float32 [count, K] to y float32 [count, O]; 0 <= step < T. The residual is null or of y's
  // shape.
  void linear(const float* x, int64_t count, int32_t step, const float* residual, float* y,
              Parallel& parallel) const;

  // x float32 [batch, I, height, width] to y float32 [batch, O, H', W']; 0 <= step < T.
  void conv(const float* x, int64_t batch, int64_t height, int64_t width, int32_t step,
            const Residual& residual, float* y, Parallel& parallel) const;

 private:
  std::unique_ptr<const PackedWeight> weight_;
};

}  // namespace mpq
