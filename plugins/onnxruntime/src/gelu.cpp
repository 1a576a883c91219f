#include "gelu.h"

#include <algorithm>

#include "kernels/kernels.h"

namespace mpq {
namespace {

auto kernel_of(GeluForm form, const Kernels& kernels) {
  return form == GeluForm::kErf ? kernels.gelu : kernels.gelu_tanh;
}

}  // namespace

void gelu(GeluForm form, const Kernels& kernels, const float* x, int64_t size, float* y,
          Parallel& parallel) {
  const auto kernel = kernel_of(form, kernels);
  run_all(parallel, (size + kPieceValues - 1) / kPieceValues, [&](int64_t piece) {
    const int64_t first = piece * kPieceValues;
    kernel(x + first, nullptr, std::min(kPieceValues, size - first), y + first);
  });
}

void geglu(GeluForm form, const Kernels& kernels, const float* x, int64_t rows, int64_t width,
           float* y, Parallel& parallel) {
  if (rows * width == 0) return;
  const auto kernel = kernel_of(form, kernels);
  run_in_pieces(parallel, rows, width, [&](int64_t row) {
    const float* factor = x + row * 2 * width;
    kernel(factor + width, factor, width, y + row * width);
  });
}

}  // namespace mpq
