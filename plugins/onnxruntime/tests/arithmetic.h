// Threads that flush denormals, as some programs' do, and find it so after every piece of work.
#pragma once

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif
#include <atomic>
#include <cstdint>

#include "threads.h"

namespace mpq {

#if defined(__x86_64__)
inline uint64_t arithmetic() { return _mm_getcsr() & ~0x3fu; }  // but for what has happened
inline void flush_denormals() { _mm_setcsr(_mm_getcsr() | 0x8040u); }
#elif defined(__aarch64__)
inline uint64_t arithmetic() {
  uint64_t mode;
  __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
  return mode;
}
inline void flush_denormals() {
  __asm__ volatile("msr fpcr, %0" : : "r"(arithmetic() | uint64_t{1} << 24));
}
#else
inline uint64_t arithmetic() { return 0; }
inline void flush_denormals() {}
#endif

class Flushing final : public Parallel {
 public:
  explicit Flushing(int64_t count) : threads_(count) {}

  void run(Work work, void* state, std::size_t count) override {
    struct Piece {
      Flushing& all;
      Work work;
      void* state;
    } piece{*this, work, state};
    threads_.run(
        [](void* opaque, std::size_t index) {
          const Piece& piece = *static_cast<Piece*>(opaque);
          piece.all.watch([&] { piece.work(piece.state, index); });
        },
        &piece, count);
  }

  int64_t threads() const override { return threads_.threads(); }

  // Runs `work` on this thread.
  template <typename Function>
  void watch(const Function& work) {
    flush_denormals();
    const uint64_t before = arithmetic();
    work();
    if (arithmetic() != before) disturbed_ = true;
  }

  // Whether any piece has left its thread another arithmetic.
  bool disturbed() const { return disturbed_; }

 private:
  Threads threads_;
  std::atomic<bool> disturbed_{false};
};

}  // namespace mpq
