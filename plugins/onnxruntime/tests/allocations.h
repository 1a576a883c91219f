// What this thread has allocated. For one translation unit of a program: operator new is replaced.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <new>

namespace mpq {

inline thread_local int64_t allocations = 0;

}  // namespace mpq

void* operator new(std::size_t size) {
  ++mpq::allocations;
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}
void* operator new(std::size_t size, std::align_val_t alignment) {
  ++mpq::allocations;
  const auto to = static_cast<std::size_t>(alignment);
  if (void* memory = std::aligned_alloc(to, (size + to - 1) / to * to)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
