#include "spread.h"

#include <algorithm>
#include <cmath>

#include "kernels/kernels.h"

namespace mpq {

Spread spread_of(const Kernels& kernels, const float* x, int64_t count, float epsilon) {
  // Moments around a value near the mean: a large mean costs no digits.
  const int64_t sampled = std::min<int64_t>(count, 256);
  const auto pivot =
      static_cast<float>(kernels.moments(x, sampled, 0.0f).sum / static_cast<double>(sampled));
  const Moments moments = kernels.moments(x, count, pivot);
  const double offset = moments.sum / static_cast<double>(count);
  const double variance =
      std::max(moments.squares / static_cast<double>(count) - offset * offset, 0.0);
  return {static_cast<float>(static_cast<double>(pivot) + offset),
          1.0 / std::sqrt(variance + static_cast<double>(epsilon))};
}

}  // namespace mpq
