// Work that may be done by several threads at once.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>

#include "ieee.h"

namespace mpq {

// Runs work(i) for every i below count, in any order, perhaps at once; returns when all are done.
// `work` must not throw: see run_all.
class Parallel {
 public:
  using Work = void (*)(void* state, std::size_t index);
  virtual void run(Work work, void* state, std::size_t count) = 0;
  // How many pieces are worth making.
  virtual int64_t threads() const = 0;

 protected:
  ~Parallel() = default;
};

// Values that are worth waking a thread for, in passes that read and write them once.
constexpr int64_t kPieceValues = int64_t{1} << 15;

// function(i) for every i below count, in the contract's arithmetic on every thread. What the first
// of them throws is thrown here, once all have returned: other threads end at an exception.
template <typename Function>
void run_all(Parallel& parallel, int64_t count, const Function& function) {
  const IeeeArithmetic ieee;
  if (count == 1) return function(0);
  struct State {
    const Function& function;
    std::atomic<bool> failed{false};
    std::exception_ptr first;
  } state{function, {}, {}};
  parallel.run(
      [](void* opaque, std::size_t index) {
        State& state = *static_cast<State*>(opaque);
        const IeeeArithmetic ieee;
        try {
          state.function(static_cast<int64_t>(index));
        } catch (...) {
          if (!state.failed.exchange(true)) state.first = std::current_exception();
        }
      },
      &state, static_cast<std::size_t>(count));
  if (state.first) std::rethrow_exception(state.first);
}

// function(i) for every i below count, several to a piece of work where one has few values.
template <typename Function>
void run_in_pieces(Parallel& parallel, int64_t count, int64_t values, const Function& function) {
  const int64_t per_piece = std::max<int64_t>(kPieceValues / values, 1);
  run_all(parallel, (count + per_piece - 1) / per_piece, [&](int64_t piece) {
    const int64_t end = std::min((piece + 1) * per_piece, count);
    for (int64_t i = piece * per_piece; i < end; ++i) function(i);
  });
}

}  // namespace mpq
