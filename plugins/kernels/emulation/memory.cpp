#include "memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <new>

namespace mpq::emulation {

// One page of each end is closed; the buffer ends at the last one.
GuardedBytes::GuardedBytes(size_t size) : size_(size) {
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const size_t inner = (size + page - 1) / page * page;
  mapped_ = inner + 2 * page;
  void* map = mmap(nullptr, mapped_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (map == MAP_FAILED) throw std::bad_alloc();
  map_ = static_cast<char*>(map);
  begin_ = map_ + page + inner - size;
  if (inner > 0 && mprotect(map_ + page, inner, PROT_READ | PROT_WRITE) != 0) {
    munmap(map_, mapped_);
    throw std::bad_alloc();
  }
}

GuardedBytes::~GuardedBytes() { munmap(map_, mapped_); }

void GuardedBytes::fill_with_noise(Random& random) {
  char* to = begin_;
  for (size_t left = size_; left > 0;) {
    const uint64_t noise = random.next();
    const size_t count = left < 8 ? left : 8;
    std::memcpy(to, &noise, count);
    to += count;
    left -= count;
  }
}

void GuardedBytes::forbid_writing() {
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  mprotect(map_ + page, mapped_ - 2 * page, PROT_READ);
}

}  // namespace mpq::emulation

// For tests: what cudaMalloc is on a GPU. Buffers begin as noise.
extern "C" {

void* mpq_emulation_allocate(size_t size) {
  auto* bytes = new mpq::emulation::GuardedBytes(size);
  bytes->fill_with_noise(mpq::emulation::random);
  return bytes;
}

void* mpq_emulation_address(void* bytes) {
  return static_cast<mpq::emulation::GuardedBytes*>(bytes)->begin();
}

void mpq_emulation_forbid_writing(void* bytes) {
  static_cast<mpq::emulation::GuardedBytes*>(bytes)->forbid_writing();
}

void mpq_emulation_free(void* bytes) { delete static_cast<mpq::emulation::GuardedBytes*>(bytes); }
}
