// Adaptive layer normalisation: scale and shift come with every image, in floating point.
#pragma once

#include <cstdint>

#include "parallel.h"

namespace mpq {

struct Kernels;

// Scale or shift, float32: image i has those at data + i * stride, one per channel.
struct Modulation {
  const float* data;
  int64_t stride;
};

// x and y float32 [batch, tokens, channels]; every token is normalised by itself.
void ada_layer_norm(const Kernels& kernels, float epsilon, const float* x, int64_t batch,
                    int64_t tokens, int64_t channels, const Modulation& scale,
                    const Modulation& shift, float* y, Parallel& parallel);

}  // namespace mpq
