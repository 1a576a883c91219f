#include "device.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include "fibres.h"
#include "memory.h"

namespace mpq::emulation {

dim3 block_size, grid_size;

namespace {

struct Copy {
  SharedAddress to;
  const void* from;
  int32_t count;
};

// A thread's copies that are still under way, commit by commit; the last is not committed yet.
struct Copies {
  std::vector<std::vector<Copy>> groups{1};
};

// When copies take place: at their wait, at once, or now so and now so.
enum class CopyTime { kLate, kEarly, kAny };

// A thread block that is there now.
struct Resident {
  explicit Resident(size_t bytes) : shared(bytes) {}

  dim3 index;
  GuardedBytes shared;
  std::vector<Copies> copies;  // of each thread
  CopyTime copy_time = CopyTime::kLate;
};

constexpr uint32_t kMaxResidents = 3;

struct Launch {
  Body body = {};
  std::vector<std::unique_ptr<Resident>> residents;
};

Launch running;

Resident& resident() { return *running.residents[current_block()]; }
Copies& copies() { return resident().copies[current_thread()]; }

char* shared_at(SharedAddress address) {
  const GuardedBytes& shared = resident().shared;
  if (address % 16 != 0) undefined("a misaligned address in shared memory");
  if (size_t{address} + 16 > shared.size()) undefined("an address beyond shared memory");
  return shared.begin() + address;
}

void perform(const Copy& copy) {
  if (reinterpret_cast<uintptr_t>(copy.from) % 16 != 0)
    undefined("a copy from a misaligned address");
  char* to = shared_at(copy.to);
  std::memset(to, 0, 16);
  std::memcpy(to, copy.from, static_cast<size_t>(copy.count));
}

void run_thread() {
  running.body.run(running.body.kernel, running.body.argument);
  for (const auto& group : copies().groups) {
    if (!group.empty()) undefined("a thread ends before its copies");
  }
}

int8_t byte_of(uint32_t word, int i) { return static_cast<int8_t>(word >> 8 * i & 255); }

void multiply_warp(const void* const (&brought)[kLanes]) {
  int16_t a[16][32], b[8][32];
  for (int lane = 0; lane < kLanes; ++lane) {
    const auto& product = *static_cast<const Product*>(brought[lane]);
    const int row = lane / 4, column = lane % 4 * 4;
    for (int i = 0; i < 4; ++i) {
      for (int part = 0; part < 4; ++part) {
        a[row + 8 * (part % 2)][column + 16 * (part / 2) + i] = byte_of(product.a[part], i);
      }
      for (int part = 0; part < 2; ++part)
        b[row][column + 16 * part + i] = byte_of(product.b[part], i);
    }
  }
  for (int lane = 0; lane < kLanes; ++lane) {
    int32_t* sums = static_cast<const Product*>(brought[lane])->sums;
    for (int part = 0; part < 4; ++part) {
      const int16_t* row = a[lane / 4 + 8 * (part / 2)];
      const int16_t* column = b[lane % 4 * 2 + part % 2];
      int32_t sum = 0;
      for (int k = 0; k < 32; ++k) sum += row[k] * column[k];
      sums[part] += sum;
    }
  }
}

void load_for_warp(const void* const (&brought)[kLanes]) {
  for (int matrix = 0; matrix < 4; ++matrix) {
    for (int row = 0; row < 8; ++row) {
      const char* from = shared_at(static_cast<const MatrixRow*>(brought[8 * matrix + row])->row);
      for (int part = 0; part < 4; ++part) {
        std::memcpy(static_cast<const MatrixRow*>(brought[4 * row + part])->to + matrix,
                    from + 4 * part, 4);
      }
    }
  }
}

}  // namespace

dim3 thread_index() { return dim3(static_cast<unsigned>(current_thread()), 0, 0); }
dim3 block_index() { return resident().index; }

void undefined(const char* what) {
  const dim3 block = block_index();
  std::fprintf(stderr, "undefined on a GPU: %s (block %u %u %u, thread %d)\n", what, block.x,
               block.y, block.z, current_thread());
  std::abort();
}

char* shared_bytes() { return resident().shared.begin(); }

void meet(const Place& place) { meet_in_block(place); }
void pause() { yield(); }

void multiply_add(const Product& lane, const Place& place) {
  meet_in_warp("mma", place, &lane, multiply_warp);
}

void load_matrices(const MatrixRow& lane, const Place& place) {
  meet_in_warp("ldmatrix", place, &lane, load_for_warp);
}

void copy_async(SharedAddress to, const void* from, int32_t count) {
  if (count != 0 && count != 16) undefined("a copy of neither 0 nor 16 bytes");
  const Copy copy{to, from, count};
  const bool now = resident().copy_time == CopyTime::kEarly ||
                   (resident().copy_time == CopyTime::kAny && random.below(2) == 0);
  if (now) {
    perform(copy);
  } else {
    copies().groups.back().push_back(copy);
  }
}

void commit_copies() { copies().groups.emplace_back(); }

void wait_for_copies(int pending) {
  auto& groups = copies().groups;
  const int done = static_cast<int>(groups.size()) - 1 - pending;
  if (done <= 0) return;
  for (int group = 0; group < done; ++group) {
    for (const Copy& copy : groups[group]) perform(copy);
  }
  groups.erase(groups.begin(), groups.begin() + done);
}

void run(const Body& body, dim3 grid, dim3 block, size_t shared_bytes) {
  running = {body, {}};
  grid_size = grid;
  block_size = block;
  std::vector<uint32_t> order(size_t{grid.x} * grid.y * grid.z);
  std::iota(order.begin(), order.end(), 0u);
  for (auto i = static_cast<uint32_t>(order.size()) - 1; i > 0; --i) {
    std::swap(order[i], order[random.below(i + 1)]);
  }
  while (!order.empty()) {
    const auto together = std::min<size_t>(1 + random.below(kMaxResidents), order.size());
    running.residents.clear();
    for (size_t i = 0; i < together; ++i) {
      auto added = std::make_unique<Resident>(shared_bytes);
      const uint32_t index = order.back();
      order.pop_back();
      added->index = dim3(index % grid.x, index / grid.x % grid.y, index / grid.x / grid.y);
      added->shared.fill_with_noise(random);
      added->copies.resize(block.x);
      added->copy_time = static_cast<CopyTime>(random.below(3));
      running.residents.push_back(std::move(added));
    }
    run_blocks(static_cast<int>(together), static_cast<int>(block.x), run_thread);
  }
}

}  // namespace mpq::emulation

// For tests: the seed of all that is drawn, the last launch (grid, threads, bytes of shared
// memory), and the conversions that a GPU has instructions for.
extern "C" {

void mpq_emulation_last_launch(uint32_t (*launch)[5]) {
  using namespace mpq::emulation;
  const uint32_t shared = static_cast<uint32_t>(running.residents.back()->shared.size());
  const uint32_t values[] = {grid_size.x, grid_size.y, grid_size.z, block_size.x, shared};
  std::copy(std::begin(values), std::end(values), *launch);
}

void mpq_emulation_seed(uint64_t seed) { mpq::emulation::random = mpq::emulation::Random(seed); }

uint16_t mpq_emulation_to_half(float value) { return mpq::to_float16(value); }

float mpq_emulation_from_half(uint16_t bits) { return mpq::from_float16(bits); }
}
