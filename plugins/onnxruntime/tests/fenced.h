// Arrays between pages that nobody may touch: what reads or writes beside them ends the program.
// Sanitizers see no such thing of instructions that they do not know: masked ones, tiles.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

namespace mpq {

enum class Beside { kPageBefore, kPageAfter };

template <typename T>
class Fenced {
 public:
  // Of `count` elements, which touch one of both pages.
  Fenced(int64_t count, Beside side) : count_(count) {
    const int64_t page = sysconf(_SC_PAGESIZE), bytes = count * static_cast<int64_t>(sizeof(T));
    const int64_t inside = (bytes + page - 1) / page * page;
    const auto size = static_cast<std::size_t>(inside + 2 * page);
    void* const all = mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (all == MAP_FAILED) throw std::bad_alloc();
    pages_ = {all, Unmap{size}};
    char* const begin = static_cast<char*>(all) + page;
    if (mprotect(begin, static_cast<std::size_t>(inside), PROT_READ | PROT_WRITE) != 0)
      throw std::bad_alloc();
    data_ = reinterpret_cast<T*>(side == Beside::kPageBefore ? begin : begin + inside - bytes);
  }

  T* data() { return data_; }
  const T* data() const { return data_; }
  int64_t size() const { return count_; }
  T operator[](int64_t index) const { return data_[index]; }

 private:
  struct Unmap {
    std::size_t size = 0;
    void operator()(void* pages) const { munmap(pages, size); }
  };

  int64_t count_;
  std::unique_ptr<void, Unmap> pages_;
  T* data_;
};

}  // namespace mpq
