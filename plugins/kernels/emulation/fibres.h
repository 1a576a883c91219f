// The threads of thread blocks that are on one multiprocessor together; one of them runs at a time.
#pragma once

#include <cstddef>
#include <cstdint>

#include "device.h"

namespace mpq::emulation {

constexpr int kLanes = 32;
constexpr int kMaxFibres = 1024;

// Numbers that a seed decides.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u + 1) {}
  uint64_t next();
  uint32_t below(uint32_t bound) { return static_cast<uint32_t>((next() >> 32) * bound >> 32); }

 private:
  uint64_t state_;
};

extern Random random;

// Runs `run` on all threads of `blocks` blocks until all have returned; threads are whole warps.
void run_blocks(int blocks, int threads, void (*run)());

// Of the fibre that runs.
int current_block();
int current_thread();

// Lets any fibre that can go on, this one among them, go on.
void yield();

// From here on the running fibre is in this variant of the code.
void enter_variant(int variant);

// All lanes of the running fibre's warp come here with the same `what`, from one place in one
// variant of the code. The last one calls `act` with what each of them brought.
void meet_in_warp(const char* what, const Place& place, const void* brought,
                  void (*act)(const void* const (&)[kLanes]));

// All threads of the running fibre's block come here, the lanes of each warp from one place.
void meet_in_block(const Place& place);

}  // namespace mpq::emulation
