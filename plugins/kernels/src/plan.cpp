// Which kernel a call takes, and how many threads and how much shared memory.
#include "plan.h"

#include <cstring>
#include <iterator>

#include "kernels.h"

namespace mpq {
namespace {

struct Shape {
  const char* kernel;
  int64_t grid[3];
  int threads;
  int64_t shared_bytes;
};

int64_t divided_up(int64_t value, int64_t by) { return (value + by - 1) / by; }

const char* quantize_kernel(bool float16) {
#define MPQ_KERNEL(name, its_float16) \
  if (float16 == its_float16) return #name;
  MPQ_QUANTIZE_KERNELS(MPQ_KERNEL)
#undef MPQ_KERNEL
  return nullptr;
}

// Of the kernels for so many pixels and tiles, the first that is wide enough.
const char* multiply_kernel(const Cut& cut, int32_t planes) {
#define MPQ_KERNEL(name, its_pixels, its_tiles, widest) \
  if (cut.pixels == its_pixels && cut.tiles == its_tiles && planes <= widest) return #name;
  MPQ_GEMM_KERNELS(MPQ_KERNEL)
#undef MPQ_KERNEL
#define MPQ_KERNEL(name, its_pixels, widest) \
  if (cut.pixels == its_pixels && planes <= widest) return #name;
  MPQ_SMALL_KERNELS(MPQ_KERNEL)
#undef MPQ_KERNEL
  return nullptr;
}

constexpr int64_t gemm_shared_bytes(int64_t pixels) { return kStages * pixels * kBlockColumns; }

constexpr int64_t small_shared_bytes(int64_t pixels) {
  return kSmallThreads * pixels * int64_t{sizeof(int32_t)};
}

constexpr MpqKernel kKernels[] = {
#define MPQ_KERNEL(name, ...) {#name, 0},
    MPQ_QUANTIZE_KERNELS(MPQ_KERNEL)
#undef MPQ_KERNEL
#define MPQ_KERNEL(name, pixels, ...) {#name, static_cast<uint32_t>(gemm_shared_bytes(pixels))},
        MPQ_GEMM_KERNELS(MPQ_KERNEL)
#undef MPQ_KERNEL
#define MPQ_KERNEL(name, pixels, ...) {#name, static_cast<uint32_t>(small_shared_bytes(pixels))},
            MPQ_SMALL_KERNELS(MPQ_KERNEL)
#undef MPQ_KERNEL
};

Shape quantize_shape(const Problem& p) {
  const int64_t chunks = int64_t{p.padded_pixels} * (p.pixel_bytes / kChunk);
  const int64_t blocks = divided_up(chunks, kQuantizeThreads);
  return {quantize_kernel(p.call.float16 != 0), {blocks, 1, 1}, kQuantizeThreads, 0};
}

Shape multiply_shape(const Problem& p) {
  const char* kernel = multiply_kernel(p.cut, p.layer.max_planes);
  const int64_t groups = p.layer.group, splits = p.cut.splits;
  if (p.cut.pixels <= kSmallPixels) {
    return {kernel,
            {groups * p.group_tiles, splits, 1},
            kSmallThreads,
            small_shared_bytes(p.cut.pixels)};
  }
  const int64_t row_blocks = divided_up(p.group_tiles, p.cut.tiles);
  return {kernel,
          {row_blocks, p.pixel_tiles, groups * splits},
          kGemmThreads,
          gemm_shared_bytes(p.cut.pixels)};
}

int plan(const MpqLayer* layer, const MpqCall* call, Shape (*shape_of)(const Problem&),
         MpqLaunch* launch) {
  if (launch == nullptr) return MPQ_BAD_CALL;
  auto problem = Problem();  // its padding is 0, too: equal calls have equal arguments
  const int status = prepare(layer, call, problem);
  if (status != MPQ_OK) return status;
  const Shape shape = shape_of(problem);
  *launch = {};
  launch->kernel = shape.kernel;
  for (int i = 0; i < 3; ++i) launch->grid[i] = static_cast<uint32_t>(shape.grid[i]);
  launch->threads = static_cast<uint32_t>(shape.threads);
  launch->shared_bytes = static_cast<uint32_t>(shape.shared_bytes);
  launch->argument_bytes = sizeof(Problem);
  static_assert(sizeof(Problem) <= sizeof(MpqLaunch::argument));
  std::memcpy(launch->argument, &problem, sizeof(Problem));
  return MPQ_OK;
}

}  // namespace
}  // namespace mpq

int mpq_plan_quantize(const MpqLayer* layer, const MpqCall* call, MpqLaunch* launch) {
  return mpq::plan(layer, call, mpq::quantize_shape, launch);
}

int mpq_plan_multiply(const MpqLayer* layer, const MpqCall* call, MpqLaunch* launch) {
  return mpq::plan(layer, call, mpq::multiply_shape, launch);
}

void mpq_kernel(int index, MpqKernel* kernel) {
  const bool there = index >= 0 && index < static_cast<int>(std::size(mpq::kKernels));
  *kernel = there ? mpq::kKernels[index] : MpqKernel{nullptr, 0};
}

const char* mpq_plan_status_text(int status) {
  switch (status) {
    case MPQ_OK:
      return "no error";
    case MPQ_BAD_LAYER:
      return "a size or a bit width of the layer that the contract does not allow";
    case MPQ_BAD_CALL:
      return "no output, or a pointer that is null or misaligned";
    case MPQ_TOO_LARGE:
      return "activations beyond 2 GiB, or more tiles than a grid has";
    case MPQ_SMALL_WORKSPACE:
      return "a workspace smaller than mpq_workspace_bytes says";
    default:
      return "unrecognized error code";
  }
}

int mpq_interface_version(void) { return MPQ_INTERFACE_VERSION; }

const char* mpq_layout_version(void) { return MPQ_LAYOUT_VERSION; }
