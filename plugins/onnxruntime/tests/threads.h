// Threads for tests, where no session lends its own.
#pragma once

#include <atomic>
#include <thread>
#include <vector>

#include "layer.h"

namespace mpq {

class Threads final : public Parallel {
 public:
  explicit Threads(int64_t threads) : threads_(threads) {}

  void run(Work work, void* state, std::size_t count) override {
    std::atomic<std::size_t> next{0};
    const auto drain = [&] {
      for (std::size_t i = next++; i < count; i = next++) work(state, i);
    };
    std::vector<std::thread> others;
    for (int64_t i = 1; i < threads_ && static_cast<std::size_t>(i) < count; ++i) {
      others.emplace_back(drain);
    }
    drain();
    for (std::thread& other : others) other.join();
  }

  int64_t threads() const override { return threads_; }

 private:
  const int64_t threads_;
};

}  // namespace mpq
