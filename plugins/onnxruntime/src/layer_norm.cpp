#include "layer_norm.h"

#include "kernels/kernels.h"
#include "spread.h"

namespace mpq {

void ada_layer_norm(const Kernels& kernels, float epsilon, const float* x, int64_t batch,
                    int64_t tokens, int64_t channels, const Modulation& scale,
                    const Modulation& shift, float* y, Parallel& parallel) {
  if (batch * tokens * channels == 0) return;
  run_in_pieces(parallel, batch * tokens, channels, [&](int64_t token) {
    const float* from = x + token * channels;
    const Spread spread = spread_of(kernels, from, channels, epsilon);
    const int64_t image = token / tokens;
    kernels.modulate(from, channels, {spread.mean, static_cast<float>(spread.factor)},
                     scale.data + image * scale.stride, shift.data + image * shift.stride,
                     y + token * channels);
  });
}

}  // namespace mpq
