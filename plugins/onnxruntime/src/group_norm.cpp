#include "group_norm.h"

#include "kernels/kernels.h"
#include "parallel.h"
#include "spread.h"

namespace mpq {

void group_norm(const GroupNorm& norm, const Kernels& kernels, const float* x, int64_t batch,
                int64_t channels, int64_t pixels, float* y, Parallel& parallel) {
  if (batch * channels * pixels == 0) return;
  const int64_t per_group = channels / norm.groups, values = per_group * pixels;
  run_in_pieces(parallel, batch * norm.groups, values, [&](int64_t index) {
    const float* from = x + index * values;
    float* to = y + index * values;
    const Spread spread = spread_of(kernels, from, values, norm.epsilon);
    const int64_t first = index % norm.groups * per_group;
    for (int64_t c = 0; c < per_group; ++c) {
      const ChannelNorm channel{
          spread.mean,
          static_cast<float>(spread.factor * static_cast<double>(norm.scale[first + c])),
          norm.bias[first + c]};
      (norm.silu ? kernels.normalize_silu : kernels.normalize)(from + c * pixels, pixels, channel,
                                                               to + c * pixels);
    }
  });
}

}  // namespace mpq
