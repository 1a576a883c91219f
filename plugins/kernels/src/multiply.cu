// The second launch: products, and outputs from their sums.
#include "gemm.h"
#include "small.h"

namespace mpq {
namespace {

template <int kPixels>
int launch_small(const Problem& p, MpqStream stream) {
  const dim3 grid(p.layer.group * p.group_tiles, p.cut.splits);
  const auto kernel = p.layer.max_planes <= kFewPlanes ? multiply_small<kPixels, kFewPlanes>
                                                       : multiply_small<kPixels, kMaxPlanes>;
  return launch(kernel, grid, kSmallThreads, small_shared_bytes<kPixels>(), stream, p);
}

template <int kPixels, int kTiles, int kWidest>
int launch_gemm(const Problem& p, MpqStream stream) {
  const dim3 grid((p.group_tiles + kTiles - 1) / kTiles, p.pixel_tiles,
                  p.layer.group * p.cut.splits);
  return launch(gemm<kPixels, kTiles, kWidest>, grid, kGemmThreads, gemm_shared_bytes<kPixels>(),
                stream, p);
}

}  // namespace
}  // namespace mpq

int mpq_multiply(const MpqLayer* layer, const MpqCall* call, MpqStream stream) {
  mpq::Problem problem;
  const int status = mpq::prepare(layer, call, problem);
  if (status != MPQ_OK) return status;
  switch (problem.cut.pixels) {
    case 8:
      return mpq::launch_small<8>(problem, stream);
    case 16:
      return mpq::launch_small<16>(problem, stream);
    case 32:
      return mpq::launch_small<32>(problem, stream);
    case 64:
      return mpq::launch_gemm<64, 4, mpq::kMaxPlanes>(problem, stream);
    default:
      return problem.cut.tiles == 4 ? mpq::launch_gemm<128, 4, mpq::kFewPlanes>(problem, stream)
                                    : mpq::launch_gemm<128, 2, mpq::kFewPlanes>(problem, stream);
  }
}
