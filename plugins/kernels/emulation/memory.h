// Buffers that end where memory ends: what is read or written beside them stops the program.
#pragma once

#include <cstddef>

#include "fibres.h"

namespace mpq::emulation {

class GuardedBytes {
 public:
  explicit GuardedBytes(size_t size);
  ~GuardedBytes();
  GuardedBytes(const GuardedBytes&) = delete;
  GuardedBytes& operator=(const GuardedBytes&) = delete;

  char* begin() const { return begin_; }
  size_t size() const { return size_; }
  void fill_with_noise(Random& random);
  void forbid_writing();

 private:
  size_t size_, mapped_;
  char *map_, *begin_;
};

}  // namespace mpq::emulation
