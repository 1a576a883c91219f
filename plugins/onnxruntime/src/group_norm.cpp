#include "group_norm.h"

#include <cmath>

#include "kernels/kernels.h"
#include "parallel.h"

namespace mpq {

void group_norm(const GroupNorm& norm, const Kernels& kernels, const float* x, int64_t batch,
                int64_t channels, int64_t pixels, float* y, Parallel& parallel) {
  if (batch * channels * pixels == 0) return;
  const int64_t per_group = channels / norm.groups, values = per_group * pixels;
  run_all(parallel, batch * norm.groups, [&](int64_t index) {
    const float* from = x + index * values;
    float* to = y + index * values;
    const auto count = static_cast<double>(values);
    // The sum again, around the first mean, gives back what float32 lost of it.
    auto mean = static_cast<float>(kernels.sum(from, values, 0.0f) / count);
    mean += static_cast<float>(kernels.sum(from, values, mean) / count);
    const double variance = kernels.sum_squares(from, values, mean) / count;
    const double factor = 1.0 / std::sqrt(variance + static_cast<double>(norm.epsilon));
    const int64_t first = index % norm.groups * per_group;
    for (int64_t c = 0; c < per_group; ++c) {
      const ChannelNorm channel{
          mean, static_cast<float>(factor * static_cast<double>(norm.scale[first + c])),
          norm.bias[first + c]};
      (norm.silu ? kernels.normalize_silu : kernels.normalize)(from + c * pixels, pixels, channel,
                                                               to + c * pixels);
    }
  });
}

}  // namespace mpq
