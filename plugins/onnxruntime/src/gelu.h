// GELU, alone and as the gate of a gated linear unit (GEGLU), in floating point.
#pragma once

#include <cstdint>

#include "parallel.h"

namespace mpq {

struct Kernels;

// gelu(x) = x * (1 + erf(x / sqrt(2))) / 2, or its approximation with tanh.
enum class GeluForm { kErf, kTanh };

// y = gelu(x) of `size` values.
void gelu(GeluForm form, const Kernels& kernels, const float* x, int64_t size, float* y,
          Parallel& parallel);

// x float32 [rows, 2 * width], y [rows, width]: the first half of a row times the gelu of the
// second.
void geglu(GeluForm form, const Kernels& kernels, const float* x, int64_t rows, int64_t width,
           float* y, Parallel& parallel);

}  // namespace mpq
