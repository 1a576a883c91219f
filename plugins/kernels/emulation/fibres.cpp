#include "fibres.h"

#include <csetjmp>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <ucontext.h>
#include <utility>
#include <vector>

#include "device.h"

namespace mpq::emulation {

Random random(0);

uint64_t Random::next() {
  state_ ^= state_ >> 12;
  state_ ^= state_ << 25;
  state_ ^= state_ >> 27;
  return state_ * 0x2545f4914f6cdd1du;
}

namespace {

constexpr size_t kStackBytes = size_t{64} << 10;
constexpr int kPriorityChange = 200;  // one choice in so many

// ucontext makes a fibre; _setjmp and _longjmp, which save no signals, change between them.
struct Fibre {
  std::unique_ptr<char[]> stack;
  ucontext_t first;
  jmp_buf context;
  bool begun = false;
};

// Lanes of one warp that are ready, and where its lanes meet.
struct Warp {
  std::vector<int> ready;
  const char* what = nullptr;
  const void* brought[kLanes];
  int arrived = 0;
};

struct Block {
  std::vector<Fibre> fibres = std::vector<Fibre>(kMaxThreads);
  std::vector<Warp> warps;
  std::vector<int> priority;  // warps, the most urgent first
  bool by_priority = false;
  int threads = 0, current = -1, finished = 0, at_barrier = 0;
  void (*run)() = nullptr;
  jmp_buf caller;
};

Block block;

void fibre_main();

void resume(int fibre) {
  block.current = fibre;
  thread_index = dim3(static_cast<unsigned>(fibre), 0, 0);
  Fibre& next = block.fibres[fibre];
  if (next.begun) _longjmp(next.context, 1);
  next.begun = true;
  if (!next.stack) next.stack.reset(new char[kStackBytes]);
  getcontext(&next.first);
  next.first.uc_stack.ss_sp = next.stack.get();
  next.first.uc_stack.ss_size = kStackBytes;
  next.first.uc_link = nullptr;
  makecontext(&next.first, fibre_main, 0);
  setcontext(&next.first);
}

// With priorities a warp runs ahead until it must wait; without, all keep together.
int chosen_warp() {
  if (block.by_priority && random.below(kPriorityChange) == 0) {
    const auto count = static_cast<uint32_t>(block.priority.size());
    std::swap(block.priority[random.below(count)], block.priority[random.below(count)]);
  }
  const auto count = static_cast<uint32_t>(block.priority.size());
  const uint32_t first = block.by_priority ? 0 : random.below(count);
  for (uint32_t i = 0; i < count; ++i) {
    const int warp = block.priority[(first + i) % count];
    if (!block.warps[warp].ready.empty()) return warp;
  }
  undefined("threads wait for others that never come");
}

int chosen_fibre() {
  std::vector<int>& ready = block.warps[chosen_warp()].ready;
  std::swap(ready[random.below(static_cast<uint32_t>(ready.size()))], ready.back());
  const int fibre = ready.back();
  ready.pop_back();
  return fibre;
}

void switch_away() {
  const int next = chosen_fibre();
  if (next == block.current) return;
  if (_setjmp(block.fibres[block.current].context) == 0) resume(next);
}

void make_ready(int fibre) { block.warps[fibre / kLanes].ready.push_back(fibre); }

void fibre_main() {
  for (;;) {
    block.run();
    if (block.at_barrier > 0) undefined("a thread ended while others waited at a barrier");
    if (++block.finished < block.threads) {
      switch_away();
    } else if (_setjmp(block.fibres[block.current].context) == 0) {
      _longjmp(block.caller, 1);
    }
  }
}

}  // namespace

int current_fibre() { return block.current; }

void run_block(int threads, void (*run)()) {
  const int warps = (threads + kLanes - 1) / kLanes;
  block.threads = threads;
  block.run = run;
  block.finished = block.at_barrier = 0;
  block.warps.assign(static_cast<size_t>(warps), Warp());
  block.priority.resize(static_cast<size_t>(warps));
  std::iota(block.priority.begin(), block.priority.end(), 0);
  for (int i = warps - 1; i > 0; --i) {
    std::swap(block.priority[i], block.priority[random.below(static_cast<uint32_t>(i + 1))]);
  }
  block.by_priority = random.below(2) == 0;
  for (int fibre = 0; fibre < threads; ++fibre) make_ready(fibre);
  if (_setjmp(block.caller) == 0) resume(chosen_fibre());
}

void yield() {
  make_ready(block.current);
  switch_away();
}

void meet_in_warp(const char* what, const void* brought,
                  void (*act)(const void* const (&)[kLanes])) {
  const int first = block.current / kLanes * kLanes;
  Warp& warp = block.warps[block.current / kLanes];
  if (warp.arrived > 0 && warp.what != what) undefined("a warp's lanes diverge");
  warp.what = what;
  warp.brought[block.current % kLanes] = brought;
  if (++warp.arrived < kLanes) return switch_away();
  warp.arrived = 0;
  if (act != nullptr) act(warp.brought);
  for (int fibre = first; fibre < first + kLanes; ++fibre) {
    if (fibre != block.current) make_ready(fibre);
  }
  yield();
}

void meet_in_block() {
  if (block.finished > 0) undefined("a thread waits at a barrier after others ended");
  if (++block.at_barrier < block.threads) return switch_away();
  block.at_barrier = 0;
  for (int fibre = 0; fibre < block.threads; ++fibre) {
    if (fibre != block.current) make_ready(fibre);
  }
  yield();
}

}  // namespace mpq::emulation
