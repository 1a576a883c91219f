// Memory that a thread keeps between calls, so that running a model allocates nothing once it has
// run before.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

namespace mpq {

// Grows and never shrinks; 64-byte aligned. What it held is lost when it grows.
class Scratch {
 public:
  template <typename T>
  T* reserve(int64_t count) {
    const std::size_t bytes = static_cast<std::size_t>(count) * sizeof(T);
    if (bytes > capacity_) {
      memory_.reset();
      capacity_ = 0;
      memory_.reset(::operator new(bytes, kAlignment));
      capacity_ = bytes;
    }
    return static_cast<T*>(memory_.get());
  }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Free {
    void operator()(void* memory) const { ::operator delete(memory, kAlignment); }
  };
  std::unique_ptr<void, Free> memory_;
  std::size_t capacity_ = 0;
};

}  // namespace mpq
