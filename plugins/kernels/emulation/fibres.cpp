#include "fibres.h"

#include <ucontext.h>

#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>
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
constexpr int kMeanChoices = 200;  // until another warp runs ahead or stays behind

// ucontext makes a fibre; _setjmp and _longjmp, which save no signals, change between them.
struct Fibre {
  std::unique_ptr<char[]> stack;
  ucontext_t first;
  jmp_buf context;
  bool begun = false;
  int variant = 0;
};

// An instruction for whole warps: what it is, where it stands, and in which variant.
struct Meeting {
  const char* what = nullptr;
  Place place = {};
  int variant = 0;

  bool operator==(const Meeting& other) const {
    return what == other.what && place.line == other.place.line && variant == other.variant &&
           std::strcmp(place.file, other.place.file) == 0;
  }
};

// Lanes of one warp that are ready, and where its lanes meet.
struct Warp {
  std::vector<int> ready;
  Meeting meeting;
  const void* brought[kLanes];
  int arrived = 0;
};

struct Block {
  int finished = 0;
  int warps_waiting = 0;
};

// Fibres of one block follow one another.
struct Multiprocessor {
  std::vector<Fibre> fibres = std::vector<Fibre>(kMaxFibres);
  std::vector<Warp> warps;
  std::vector<Block> blocks;
  std::vector<int> priority;  // warps, the most urgent first
  bool by_priority = false;
  int behind = 0;  // a warp
  int threads = 0, current = -1, finished = 0;
  void (*run)() = nullptr;
  jmp_buf caller;
};

Multiprocessor here;

void fibre_main();

void resume(int fibre) {
  here.current = fibre;
  Fibre& next = here.fibres[fibre];
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

bool is_ready(int warp) { return !here.warps[warp].ready.empty(); }

// With priorities a warp runs ahead until it must wait; without, all keep together but one, which
// stays behind until no other can go on.
int chosen_warp() {
  const auto count = static_cast<uint32_t>(here.priority.size());
  const bool change = random.below(kMeanChoices) == 0;
  if (here.by_priority && change) {
    std::swap(here.priority[random.below(count)], here.priority[random.below(count)]);
  } else if (change) {
    here.behind = static_cast<int>(random.below(count));
  }
  const uint32_t first = here.by_priority ? 0 : random.below(count);
  for (uint32_t i = 0; i < count; ++i) {
    const int warp = here.priority[(first + i) % count];
    if (is_ready(warp) && (here.by_priority || warp != here.behind)) return warp;
  }
  if (!here.by_priority && is_ready(here.behind)) return here.behind;
  undefined("threads wait for others that never come");
}

int chosen_fibre() {
  std::vector<int>& ready = here.warps[chosen_warp()].ready;
  std::swap(ready[random.below(static_cast<uint32_t>(ready.size()))], ready.back());
  const int fibre = ready.back();
  ready.pop_back();
  return fibre;
}

void switch_away() {
  const int next = chosen_fibre();
  if (next == here.current) return;
  if (_setjmp(here.fibres[here.current].context) == 0) resume(next);
}

void make_ready(int fibre) { here.warps[fibre / kLanes].ready.push_back(fibre); }

void fibre_main() {
  for (;;) {
    here.run();
    Block& block = here.blocks[current_block()];
    if (block.warps_waiting > 0) undefined("a thread ended while others waited at a barrier");
    ++block.finished;
    if (++here.finished < here.threads * static_cast<int>(here.blocks.size())) {
      switch_away();
    } else if (_setjmp(here.fibres[here.current].context) == 0) {
      _longjmp(here.caller, 1);
    }
  }
}

const char* name_of(const char* file) {
  const char* slash = std::strrchr(file, '/');
  return slash == nullptr ? file : slash + 1;
}

[[noreturn]] void diverge(const Meeting& one, const Meeting& other) {
  char what[512];
  std::snprintf(what, sizeof(what),
                "a warp's lanes diverge: %s at %s:%d, variant %d; %s at %s:%d, variant %d",
                one.what, name_of(one.place.file), one.place.line, one.variant, other.what,
                name_of(other.place.file), other.place.line, other.variant);
  undefined(what);
}

// Whether the running fibre is its warp's last to come.
bool last_of_warp(const char* what, const Place& place, const void* brought) {
  Warp& warp = here.warps[here.current / kLanes];
  const Meeting meeting{what, place, here.fibres[here.current].variant};
  if (warp.arrived > 0 && !(warp.meeting == meeting)) diverge(warp.meeting, meeting);
  warp.meeting = meeting;
  warp.brought[here.current % kLanes] = brought;
  if (++warp.arrived < kLanes) return false;
  warp.arrived = 0;
  return true;
}

// So many fibres, all but the running one.
void wake_others(int first, int count) {
  for (int fibre = first; fibre < first + count; ++fibre) {
    if (fibre != here.current) make_ready(fibre);
  }
}

}  // namespace

int current_block() { return here.current / here.threads; }
int current_thread() { return here.current % here.threads; }

void run_blocks(int blocks, int threads, void (*run)()) {
  const int fibres = blocks * threads, warps = fibres / kLanes;
  if (threads % kLanes != 0 || fibres > kMaxFibres) undefined("an odd number of threads");
  here.threads = threads;
  here.run = run;
  here.finished = 0;
  here.blocks.assign(static_cast<size_t>(blocks), Block());
  here.warps.assign(static_cast<size_t>(warps), Warp());
  here.priority.resize(static_cast<size_t>(warps));
  std::iota(here.priority.begin(), here.priority.end(), 0);
  for (int i = warps - 1; i > 0; --i) {
    std::swap(here.priority[i], here.priority[random.below(static_cast<uint32_t>(i + 1))]);
  }
  here.by_priority = random.below(2) == 0;
  here.behind = static_cast<int>(random.below(static_cast<uint32_t>(warps)));
  for (int fibre = 0; fibre < fibres; ++fibre) {
    here.fibres[fibre].variant = 0;
    make_ready(fibre);
  }
  if (_setjmp(here.caller) == 0) resume(chosen_fibre());
}

void yield() {
  make_ready(here.current);
  switch_away();
}

void enter_variant(int variant) { here.fibres[here.current].variant = variant; }

void meet_in_warp(const char* what, const Place& place, const void* brought,
                  void (*act)(const void* const (&)[kLanes])) {
  if (!last_of_warp(what, place, brought)) return switch_away();
  act(here.warps[here.current / kLanes].brought);
  wake_others(here.current / kLanes * kLanes, kLanes);
  yield();
}

void meet_in_block(const Place& place) {
  Block& block = here.blocks[current_block()];
  if (block.finished > 0) undefined("a thread waits at a barrier after others ended");
  if (!last_of_warp("a barrier", place, nullptr)) return switch_away();
  if (++block.warps_waiting < here.threads / kLanes) return switch_away();
  block.warps_waiting = 0;
  wake_others(current_block() * here.threads, here.threads);
  yield();
}

}  // namespace mpq::emulation
