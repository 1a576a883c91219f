// run_cases FILE: runs every case on every set of kernels that the processor has, from several
// threads at once, and compares outputs bit for bit. Exit code 1 if one differs.
//
// It needs no ONNX Runtime: this is what runs under sanitizers and on emulated processors.
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <new>
#include <thread>

#include "case_file.h"
#include "kernels/kernels.h"
#include "layer.h"
#include "threads.h"

namespace {

using mpq::Case;

bool same(const float* found, const mpq::Tensor<float>& expected, std::size_t size) {
  for (std::size_t i = 0; i < size; ++i) {
    const bool both_nan = std::isnan(found[i]) && std::isnan(expected.data[i]);
    if (!both_nan && std::memcmp(found + i, expected.data + i, sizeof(float)) != 0) return false;
  }
  return true;
}

std::size_t size_of(const std::vector<int64_t>& shape) {
  std::size_t size = 1;
  for (int64_t extent : shape) size *= static_cast<std::size_t>(extent);
  return size;
}

mpq::Extents extents_of(const mpq::Tensor<float>& tensor) {
  return {tensor.shape.data(), tensor.shape.size()};
}

bool passes(const Case& tried, const mpq::Layer& layer, mpq::Parallel& parallel) {
  // Exactly as large as they are, on the heap: what is read or written beside them is seen.
  const std::vector<float> x(tried.x.data, tried.x.data + size_of(tried.x.shape));
  const std::vector<float> added(tried.residual.data,
                                 tried.residual.data + size_of(tried.residual.shape));
  mpq::Residual residual;
  if (!added.empty()) {
    residual = {added.data(), mpq::residual_form(extents_of(tried.residual), extents_of(tried.y),
                                                 tried.layer.is_conv)};
  }
  std::vector<float> y(size_of(tried.y.shape), 12345.0f);
  if (tried.layer.is_conv) {
    const int64_t height = tried.x.shape[2], width = tried.x.shape[3];
    const auto size = layer.output_size(height, width);
    if (size[0] != tried.y.shape[2] || size[1] != tried.y.shape[3]) return false;
    layer.conv(x.data(), tried.x.shape[0], height, width, tried.step, residual, y.data(), parallel);
  } else {
    const auto count = static_cast<int64_t>(x.size()) / layer.input_channels();
    layer.linear(x.data(), count, tried.step, residual.values, y.data(), parallel);
  }
  return same(y.data(), tried.y, y.size());
}

// What a piece of work throws on any thread comes out where the work was given.
bool throws_here() {
  mpq::Threads threads(2);
  std::atomic<int> done{0};
  try {
    mpq::run_all(threads, 8, [&](int64_t index) {
      if (index % 2 == 1) throw std::bad_alloc();
      ++done;
    });
  } catch (const std::bad_alloc&) {
    return done == 4;
  }
  return false;
}

}  // namespace

int main(int count, char** arguments) try {
  if (count != 2) {
    std::fprintf(stderr, "usage: %s FILE\n", arguments[0]);
    return 2;
  }
  const mpq::CaseFile file(arguments[1]);
  std::atomic<int> failed{0};
  if (!throws_here()) {
    std::printf("an exception of one thread is lost\n");
    ++failed;
  }
  for (const mpq::Kernels* kernels : mpq::available_kernels()) {
    for (const Case& tried : file.cases()) {
      const mpq::Layer layer(tried.layer, *kernels);
      const auto call = [&] {
        mpq::Threads threads(2);
        if (passes(tried, layer, threads)) return;
        std::printf("%s: %s differs\n", mpq::name_of(*kernels), tried.name.c_str());
        ++failed;
      };
      std::thread other(call);
      call();
      other.join();
    }
    std::printf("%s: %zu cases\n", mpq::name_of(*kernels), file.cases().size());
  }
  return failed == 0 ? 0 : 1;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 2;
}
