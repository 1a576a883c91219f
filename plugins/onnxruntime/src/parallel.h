// Work that may be done by several threads at once.
#pragma once

#include <cstddef>
#include <cstdint>

namespace mpq {

// Runs work(i) for every i below count, in any order, perhaps at once; returns when all are done.
// `work` must not throw.
class Parallel {
 public:
  using Work = void (*)(void* state, std::size_t index);
  virtual void run(Work work, void* state, std::size_t count) = 0;
  // How many pieces are worth making.
  virtual int64_t threads() const = 0;

 protected:
  ~Parallel() = default;
};

// function(i) for every i below count.
template <typename Function>
void run_all(Parallel& parallel, int64_t count, const Function& function) {
  if (count == 1) return function(0);
  parallel.run(
      [](void* state, std::size_t index) {
        (*static_cast<const Function*>(state))(static_cast<int64_t>(index));
      },
      const_cast<Function*>(&function), static_cast<std::size_t>(count));
}

}  // namespace mpq
