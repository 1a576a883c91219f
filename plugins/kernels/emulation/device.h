// CUDA's device language for a C++ compiler: enough of it to run the kernels of ../src as they are.
//
// A thread is a fibre, and fibres change places only where threads meet: at barriers, at warp-wide
// instructions, at atomics. Which goes on is drawn from a seed. Copies into shared memory happen no
// earlier than their wait, at once, or now so and now so, and shared memory holds noise until then.
// Up to three thread blocks, drawn as well, run together.
//
// What is not seen: the order in which memory becomes visible to others (a missing fence), places
// between two parts of one workspace, and whether the lanes' shares of mma and ldmatrix are those
// of real hardware: they were written from the PTX ISA.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

struct alignas(8) uint2 {
  uint32_t x, y;
};

struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};

struct alignas(16) int4 {
  int32_t x, y, z, w;
};

namespace mpq {

using SharedAddress = uint32_t;

namespace emulation {

extern dim3 block_size, grid_size;
// Of the fibre that runs.
dim3 thread_index();
dim3 block_index();

// Where an instruction stands: what all lanes of a warp must run together, they must run there.
struct Place {
  const char* file;
  int line;

  static constexpr Place here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return {file, line};
  }
};

void meet(const Place& place);
void enter_variant(int variant);
// Lets others go first, perhaps.
void pause();
// Stops the program: what was done is undefined on a GPU.
[[noreturn]] void undefined(const char* what);

char* shared_bytes();

struct Product {
  int32_t* sums;
  const uint32_t* a;
  uint32_t b[2];
};
void multiply_add(const Product& lane, const Place& place);

struct MatrixRow {
  uint32_t* to;
  SharedAddress row;
};
void load_matrices(const MatrixRow& lane, const Place& place);

void copy_async(SharedAddress to, const void* from, int32_t count);
void commit_copies();
void wait_for_copies(int pending);

// What every thread of a launch runs.
struct Body {
  void (*run)(const void* kernel, const void* argument);
  const void *kernel, *argument;
};
// Threads are in one dimension.
void run(const Body& body, dim3 grid, dim3 block, size_t shared_bytes);

}  // namespace emulation

template <typename T>
T* shared_memory() {
  return reinterpret_cast<T*>(emulation::shared_bytes());
}

inline SharedAddress shared_begin() { return 0; }

inline void meet(emulation::Place place = emulation::Place::here()) { emulation::meet(place); }
inline void enter_variant(int variant) { emulation::enter_variant(variant); }

inline void multiply_add(int32_t (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                         emulation::Place place = emulation::Place::here()) {
  emulation::multiply_add({sums, a, {b0, b1}}, place);
}

inline void load_matrices(uint32_t (&to)[4], SharedAddress row,
                          emulation::Place place = emulation::Place::here()) {
  emulation::load_matrices({to, row}, place);
}

inline void copy_async(SharedAddress to, const void* from, int32_t count) {
  emulation::copy_async(to, from, count);
}

inline void commit_copies() { emulation::commit_copies(); }

template <int kPending>
void wait_for_copies() {
  emulation::wait_for_copies(kPending);
}

inline uint32_t choose_bytes(uint32_t low, uint32_t high, uint32_t selector) {
  const uint64_t bytes = static_cast<uint64_t>(high) << 32 | low;
  uint32_t chosen = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t nibble = selector >> 4 * i & 15;
    uint32_t byte = static_cast<uint32_t>(bytes >> 8 * (nibble & 7)) & 255;
    if (nibble & 8) byte = byte & 128 ? 255 : 0;
    chosen |= byte << 8 * i;
  }
  return chosen;
}

inline uint2 load_once(const uint2* from) { return *from; }
inline int32_t load_fresh(const int32_t* from) { return *from; }

// IEEE binary16 and back, half to even; in arithmetic that is exact until the one rounding.
inline float from_float16(uint16_t bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  float value = std::ldexp(static_cast<float>(exponent == 0 ? fraction : fraction + 1024),
                           (exponent == 0 ? 1 : exponent) - 25);
  if (exponent == 31) value = fraction == 0 ? INFINITY : NAN;
  return bits >> 15 != 0 ? -value : value;
}

inline uint16_t to_float16(float value) {
  const auto sign = static_cast<uint16_t>(std::signbit(value) ? 0x8000 : 0);
  const float size = std::fabs(value);
  if (std::isnan(value)) return sign | 0x7e00;
  if (size >= 65520.0f) return sign | 0x7c00;
  int exponent = 0;
  std::frexp(size, &exponent);
  exponent = exponent < -13 ? -13 : exponent;
  const auto whole = static_cast<int>(std::nearbyint(std::ldexp(size, 11 - exponent)));
  // A whole of 2048 carries into the exponent by itself.
  return static_cast<uint16_t>(sign | (whole == 0 ? 0 : ((exponent + 13) << 10) + whole));
}

}  // namespace mpq

#define threadIdx (::mpq::emulation::thread_index())
#define blockIdx (::mpq::emulation::block_index())
#define blockDim (::mpq::emulation::block_size)
#define gridDim (::mpq::emulation::grid_size)

inline void __threadfence() { mpq::emulation::pause(); }

inline uint32_t atomicAdd(uint32_t* to, uint32_t value) {
  mpq::emulation::pause();
  const uint32_t before = *to;
  *to += value;
  return before;
}

template <typename T>
T min(T a, T b) {
  return b < a ? b : a;
}

template <typename T>
T max(T a, T b) {
  return a < b ? b : a;
}

// Compiled without contraction: each is one rounding.
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __int2float_rn(int32_t a) { return static_cast<float>(a); }
