// What a normalisation subtracts and multiplies with.
#pragma once

#include <cstdint>

namespace mpq {

struct Kernels;

struct Spread {
  float mean;
  double factor;  // 1 / sqrt(variance + epsilon)
};

// Of `count` values, at least one.
Spread spread_of(const Kernels& kernels, const float* x, int64_t count, float epsilon);

}  // namespace mpq
