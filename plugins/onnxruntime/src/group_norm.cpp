#include "group_norm.h"

#include <algorithm>
#include <cmath>

#include "kernels/kernels.h"
#include "parallel.h"

namespace mpq {

void group_norm(const GroupNorm& norm, const Kernels& kernels, const float* x, int64_t batch,
                int64_t channels, int64_t pixels, float* y, Parallel& parallel) {
  if (batch * channels * pixels == 0) return;
  const int64_t per_group = channels / norm.groups, values = per_group * pixels;
  run_in_pieces(parallel, batch * norm.groups, values, [&](int64_t index) {
    const float* from = x + index * values;
    float* to = y + index * values;
    // Moments around a value near the mean: a large mean costs no digits.
    const int64_t sampled = std::min<int64_t>(values, 256);
    const auto pivot =
        static_cast<float>(kernels.moments(from, sampled, 0.0f).sum / static_cast<double>(sampled));
    const Moments moments = kernels.moments(from, values, pivot);
    const double offset = moments.sum / static_cast<double>(values);
    const double variance =
        std::max(moments.squares / static_cast<double>(values) - offset * offset, 0.0);
    const auto mean = static_cast<float>(static_cast<double>(pivot) + offset);
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
