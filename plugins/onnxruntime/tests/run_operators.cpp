// run_operators: the floating-point operators on every set of kernels that the processor has, on
// random sizes and several threads at once, against their definitions in float64. Exit code 1 if
// one is too far off, or leaves the calling program another arithmetic.
//
// It needs no ONNX Runtime: this is what runs under sanitizers and on emulated processors.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <functional>
#include <iterator>
#include <numeric>
#include <random>
#include <thread>
#include <vector>

#include "allocations.h"
#include "arithmetic.h"
#include "attention.h"
#include "fenced.h"
#include "gelu.h"
#include "group_norm.h"
#include "kernels/attention.h"
#include "kernels/kernels.h"
#include "layer_norm.h"
#include "threads.h"

namespace {

using mpq::Beside;
using mpq::Fenced;
using mpq::Kernels;
using Floats = Fenced<float>;

// One try: its numbers, where its arrays lie, and what it runs on.
struct Try {
  std::mt19937 random;
  Beside side;
  const Kernels& kernels;
  mpq::Parallel& threads;
  bool allocates = false;

  int64_t any_of(const std::vector<int64_t>& values) { return values[random() % values.size()]; }

  // Within 3 of 0.
  Floats draw(int64_t count) {
    Floats drawn(count, side);
    for (int64_t i = 0; i < count; ++i)
      drawn.data()[i] = static_cast<float>(random() >> 8) * 0x3p-23f - 3.0f;
    return drawn;
  }

  // Runs an operator on the try's threads, twice: the second time nothing may be allocated, which
  // is seen where there is one thread.
  template <typename Function>
  void run(const Function& function) {
    function();
    const int64_t before = mpq::allocations;
    function();
    if (threads.threads() == 1 && mpq::allocations != before) allocates = true;
  }
};

using Doubles = std::vector<double>;

// Whether y is within `tolerance` times the largest of `exact`.
bool close(const Floats& y, const Doubles& exact, double tolerance) {
  double largest = 0, off = 0;
  for (int64_t i = 0; i < y.size(); ++i) {
    const double wanted = exact[static_cast<std::size_t>(i)], apart = std::abs(y[i] - wanted);
    largest = std::max(largest, std::abs(wanted));
    off = apart <= off ? off : apart;  // NaN, too
  }
  return off <= tolerance * largest;
}

// What `of` gives for every index below `size`.
template <typename Of>
Doubles each(int64_t size, const Of& of) {
  Doubles values;
  for (int64_t i = 0; i < size; ++i) values.push_back(of(i));
  return values;
}

struct Heads {
  mpq::AttentionShape shape;
  int64_t width;
  float scale;
  const Floats &query, &key, &value;

  // y of one token and head; heads are counted through the batch.
  Doubles exact(int64_t head, int64_t token) const {
    const auto at = [&](const Floats& x, int64_t tokens, int64_t of, int64_t d) {
      return static_cast<double>(x[first(head, tokens) + of * shape.channels + d]);
    };
    Doubles weights = each(shape.keys, [&](int64_t k) {
      double score = 0;
      for (int64_t d = 0; d < width; ++d)
        score += at(query, shape.queries, token, d) * at(key, shape.keys, k, d);
      return score * static_cast<double>(scale);
    });
    const double most = *std::max_element(weights.begin(), weights.end());
    double total = 0;
    for (double& weight : weights) total += weight = std::exp(weight - most);
    return each(width, [&](int64_t d) {
      double sum = 0;
      for (int64_t k = 0; k < shape.keys; ++k)
        sum += weights[static_cast<std::size_t>(k)] * at(value, shape.keys, k, d);
      return sum / total;
    });
  }

  // Where a head begins in [batch, tokens, channels].
  int64_t first(int64_t head, int64_t tokens) const {
    const int64_t heads = shape.channels / width;
    return head / heads * tokens * shape.channels + head % heads * width;
  }
};

// All heads at once, and one by one with memory of their own.
bool attention(Try& tried) {
  const int64_t heads = tried.any_of({1, 2, 3}), batch = tried.any_of({1, 2});
  const int64_t width = tried.any_of({1, 3, 8, 15, 16, 17, 32, 40, 47, 64, 72, 160});
  const mpq::AttentionShape shape{batch, tried.any_of({1, 2, 15, 16, 17, 33, 64, 65, 100, 300}),
                                  tried.any_of({1, 2, 16, 17, 31, 32, 33, 64, 65, 96, 130}),
                                  heads * width};
  const Floats query = tried.draw(batch * shape.queries * shape.channels);
  const Floats key = tried.draw(batch * shape.keys * shape.channels);
  const Floats value = tried.draw(key.size());
  const Heads all{shape, width, 0.5f / std::sqrt(static_cast<float>(width)), query, key, value};
  Floats together = tried.draw(query.size()), alone = tried.draw(query.size());
  tried.run([&] {
    mpq::attention({heads, all.scale}, tried.kernels, shape, query.data(), key.data(), value.data(),
                   together.data(), tried.threads);
  });
  const mpq::AttentionKernels& kernel = *tried.kernels.attention;
  Fenced<uint8_t> scratch(kernel.scratch_bytes(shape.keys, width), tried.side);
  Doubles exact(static_cast<std::size_t>(query.size()));
  for (int64_t head = 0; head < batch * heads; ++head) {
    const int64_t at_query = all.first(head, shape.queries), at_key = all.first(head, shape.keys);
    kernel.attend(
        {query.data() + at_query, key.data() + at_key, value.data() + at_key,
         alone.data() + at_query, shape.queries, shape.keys, width, shape.channels, all.scale},
        scratch.data());
    for (int64_t token = 0; token < shape.queries; ++token) {
      const Doubles y = all.exact(head, token);
      std::copy(y.begin(), y.end(), exact.begin() + at_query + token * shape.channels);
    }
  }
  return close(together, exact, 4e-5) && close(alone, exact, 4e-5);
}

double gelu_of(double x, mpq::GeluForm form) {
  if (form == mpq::GeluForm::kErf) return x / 2 * std::erfc(-x / std::sqrt(2.0));
  const double gate = std::sqrt(2 / std::acos(-1.0)) * (x + 0.044715 * x * x * x);
  return x / (1 + std::exp(-2 * gate));
}

bool gelu(Try& tried, mpq::GeluForm form) {
  const Floats x = tried.draw(tried.any_of({1, 3, 16, 31, 1000, 32768, 32769, 70001}));
  Floats y = tried.draw(x.size());
  tried.run([&] { mpq::gelu(form, tried.kernels, x.data(), x.size(), y.data(), tried.threads); });
  return close(y, each(x.size(), [&](int64_t i) { return gelu_of(x[i], form); }), 1e-6);
}

bool geglu(Try& tried, mpq::GeluForm form) {
  const int64_t rows = tried.any_of({1, 2, 7, 300}), width = tried.any_of({1, 5, 16, 33, 130, 640});
  const Floats x = tried.draw(2 * rows * width);
  Floats y = tried.draw(rows * width);
  tried.run(
      [&] { mpq::geglu(form, tried.kernels, x.data(), rows, width, y.data(), tried.threads); });
  const Doubles exact = each(y.size(), [&](int64_t i) {
    const int64_t factor = i + i / width * width;
    return x[factor] * gelu_of(x[factor + width], form);
  });
  return close(y, exact, 1e-6);
}

// (x - mean) / sqrt(variance + epsilon), of `count` adjacent values at a time.
Doubles normal(const Floats& x, int64_t count, double epsilon) {
  Doubles y(x.data(), x.data() + x.size());
  for (auto first = y.begin(); first != y.end(); first += count) {
    const auto last = first + count;
    const double mean = std::accumulate(first, last, 0.0) / static_cast<double>(count);
    double variance = 0;
    std::for_each(first, last, [&](double& value) { value -= mean, variance += value * value; });
    variance /= static_cast<double>(count);
    std::for_each(first, last, [&](double& value) { value /= std::sqrt(variance + epsilon); });
  }
  return y;
}

constexpr float kEpsilon = 1e-3f;  // what varies not at all is divided, too

bool group_norm(Try& tried, bool silu) {
  const int64_t groups = tried.any_of({1, 2, 5}), channels = groups * tried.any_of({1, 3, 8});
  const int64_t batch = tried.any_of({1, 3}), pixels = tried.any_of({1, 5, 16, 77, 4096});
  const Floats x = tried.draw(batch * channels * pixels);
  const Floats scale = tried.draw(channels), bias = tried.draw(channels);
  Floats y = tried.draw(x.size());
  tried.run([&] {
    mpq::group_norm({groups, kEpsilon, silu, scale.data(), bias.data()}, tried.kernels, x.data(),
                    batch, channels, pixels, y.data(), tried.threads);
  });
  Doubles exact = normal(x, channels / groups * pixels, kEpsilon);
  for (std::size_t i = 0; i < exact.size(); ++i) {
    const int64_t channel = static_cast<int64_t>(i) / pixels % channels;
    exact[i] = exact[i] * scale[channel] + bias[channel];
    if (silu) exact[i] /= 1 + std::exp(-exact[i]);
  }
  return close(y, exact, 1e-5);
}

bool ada_layer_norm(Try& tried) {
  const int64_t batch = tried.any_of({1, 3}), tokens = tried.any_of({1, 9, 130});
  const int64_t channels = tried.any_of({1, 3, 16, 40, 129, 1152}), rows = tried.any_of({1, batch});
  const Floats x = tried.draw(batch * tokens * channels);
  const Floats scale = tried.draw(rows * channels), shift = tried.draw(batch * channels);
  const int64_t stride = rows == 1 ? 0 : channels;
  Floats y = tried.draw(x.size());
  tried.run([&] {
    mpq::ada_layer_norm(tried.kernels, kEpsilon, x.data(), batch, tokens, channels,
                        {scale.data(), stride}, {shift.data(), channels}, y.data(), tried.threads);
  });
  Doubles exact = normal(x, channels, kEpsilon);
  for (std::size_t i = 0; i < exact.size(); ++i) {
    const auto at = static_cast<int64_t>(i), image = at / channels / tokens, c = at % channels;
    exact[i] = exact[i] * scale[image * stride + c] + shift[image * channels + c];
  }
  return close(y, exact, 1e-5);
}

struct Operator {
  const char* name;
  std::function<bool(Try&)> is_right;
};

const Operator kOperators[] = {
    {"attention", attention},
    {"gelu", [](Try& tried) { return gelu(tried, mpq::GeluForm::kErf); }},
    {"gelu by tanh", [](Try& tried) { return gelu(tried, mpq::GeluForm::kTanh); }},
    {"geglu", [](Try& tried) { return geglu(tried, mpq::GeluForm::kErf); }},
    {"geglu by tanh", [](Try& tried) { return geglu(tried, mpq::GeluForm::kTanh); }},
    {"group normalisation", [](Try& tried) { return group_norm(tried, false); }},
    {"group normalisation and SiLU", [](Try& tried) { return group_norm(tried, true); }},
    {"adaptive layer normalisation", ada_layer_norm},
};

}  // namespace

int main() try {
  constexpr unsigned kTries = 20;
  std::atomic<int> failed{0};
  for (const Kernels* kernels : mpq::available_kernels()) {
    for (const Operator& tested : kOperators) {
      const auto call = [&](unsigned seed) {
        mpq::Flushing threads(1 + seed % 3);
        const Beside side = seed % 2 == 0 ? Beside::kPageBefore : Beside::kPageAfter;
        Try tried{std::mt19937(seed), side, *kernels, threads};
        bool right = false;
        threads.watch([&] { right = tested.is_right(tried); });
        if (right && !tried.allocates && !threads.disturbed()) return;
        std::printf("%s: %s %u %s\n", mpq::name_of(*kernels), tested.name, seed,
                    !right            ? "is off"
                    : tried.allocates ? "allocates"
                                      : "changes the arithmetic");
        ++failed;
      };
      for (unsigned seed = 0; seed < kTries; seed += 2) {
        std::thread other(call, seed);
        call(seed + 1);
        other.join();
      }
    }
    std::printf("%s: %zu operators\n", mpq::name_of(*kernels), std::size(kOperators));
  }
  return failed == 0 ? 0 : 1;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 2;
}
