// Kernels in plain C++, compiled once for each processor by the file that includes this, with that
// processor's flags. Everything has internal linkage, and nothing of the standard library that the
// linker could merge with another file's copy is used.
#pragma once

#include <stdint.h>
#include <string.h>

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "gelu_constants.h"
#include "kernels.h"

namespace mpq {
namespace {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "planes are read as little-endian words");

[[maybe_unused]] bool always() { return true; }
[[maybe_unused]] void nothing() {}

// Makes the compiler think that a register is read and changed here.
template <typename Register>
inline void touch(Register& value) {
#if defined(__x86_64__)
  __asm__ volatile("" : "+v"(value));
#elif defined(__aarch64__)
  __asm__ volatile("" : "+w"(value));
#else
  __asm__ volatile("" : "+m"(value));
#endif
}

// Products on registers alone: `chains` sums that do not wait for one another, each of `products`
// multiply-accumulates at a time. product(sum, codes, weights) returns the sum.
template <int64_t chains, int64_t products, typename Sum, typename Input, typename Product>
inline int64_t spin_chains(int64_t rounds, Sum zero, Input any, const Product& product) {
  Input codes = any, weights = any;
  Sum sums[chains];
#pragma GCC unroll 32
  for (Sum& sum : sums) sum = zero;
  for (int64_t round = 0; round < rounds; ++round) {
    touch(codes);
#pragma GCC unroll 32
    for (Sum& sum : sums) {
      sum = product(sum, codes, weights);
      touch(sum);
    }
  }
  touch(weights);
  return rounds * chains * products;
}

// kRows rows, Tile::kTileRows of them at a time, and one group after another. Tile::multiply does
// one tile of one group; a row has Tile::kRowBytes in each block.
template <typename Tile>
[[maybe_unused]] void multiply_by_tiles(const int8_t* weights, const Lines& lines, int64_t blocks,
                                        int64_t count, int32_t* acc) {
  for (int64_t g = 0; g < count; ++g)
    for (int64_t r = 0; r < kRows; r += Tile::kTileRows)
      Tile::multiply(weights + r * Tile::kRowBytes, lines, g, blocks,
                     acc + g * kGroupSums + r * kPixels);
}

// clamp(rne((x * factor) / scale) + zero_point, 0, top). Beyond 2^20 every value saturates, and
// below it adding and subtracting 1.5 * 2^23 rounds half to even. NaN becomes 0.
inline uint32_t code_of(float x, float factor, const ActivationStep& step) {
  constexpr float kFar = 1048576.0f, kRound = 12582912.0f;
  float value = (x * factor) / step.scale;
  value = value > -kFar ? value : -kFar;
  value = value < kFar ? value : kFar;
  value = (value + kRound) - kRound;
  value = value + step.zero_point;
  value = value > 0.0f ? value : 0.0f;
  value = value < step.top ? value : step.top;
  return static_cast<uint32_t>(static_cast<int32_t>(value));
}

template <uint8_t flip>
[[maybe_unused]] void generic_quantize_quad(const Quad& quad, const ActivationStep& step,
                                            int64_t rows, int64_t columns, uint8_t* out,
                                            int64_t out_stride) {
  constexpr int64_t kBatch = 16;
  for (int64_t row = 0; row < rows; ++row, out += out_stride) {
    for (int64_t first = 0; first < columns; first += kBatch) {
      const int64_t batch = columns - first < kBatch ? columns - first : kBatch;
      uint32_t words[kBatch] = {};
      for (int channel = 0; channel < 4; ++channel) {
        if (quad.x[channel] == nullptr) continue;
        const float* source = quad.x[channel] + row * columns + first;
        const float r = quad.factor[channel];
        const int by = quad.shift[channel], lane = 8 * channel;
        if (batch == kBatch) {
          for (int64_t i = 0; i < kBatch; ++i)
            words[i] |= ((code_of(source[i], r, step) << by) ^ flip) << lane;
        } else {
          for (int64_t i = 0; i < batch; ++i)
            words[i] |= ((code_of(source[i], r, step) << by) ^ flip) << lane;
        }
      }
      memcpy(out + 4 * first, words, static_cast<size_t>(4 * batch));
    }
  }
}

template <uint8_t flip>
[[maybe_unused]] void generic_quantize_rows(const float* x, const float* factor,
                                            const uint8_t* shift, const ActivationStep& step,
                                            int64_t rows, int64_t columns, uint8_t* out,
                                            int64_t out_stride) {
  for (int64_t row = 0; row < rows; ++row, x += columns, out += out_stride)
    for (int64_t i = 0; i < columns; ++i)
      out[i] = static_cast<uint8_t>((code_of(x[i], factor[i], step) << shift[i]) ^ flip);
}

// Bits 64 * block .. of one plane of a row that has `bytes` bytes, 0 beyond them.
inline uint64_t block_bits(const uint8_t* bits, int64_t bytes, int64_t block) {
  uint64_t word = 0;
  const int64_t left = bytes - 8 * block;
  memcpy(&word, bits + 8 * block, static_cast<size_t>(left < 8 ? left : 8));
  return word;
}

[[maybe_unused]] void generic_transpose(const void* from, int64_t from_stride, int64_t rows,
                                        int64_t columns, void* to, int64_t to_stride) {
  const auto* source = static_cast<const uint32_t*>(from);
  auto* target = static_cast<uint32_t*>(to);
  constexpr int64_t kTile = 16;
  for (int64_t first_row = 0; first_row < rows; first_row += kTile) {
    const int64_t last_row = first_row + kTile < rows ? first_row + kTile : rows;
    for (int64_t column = 0; column < columns; ++column)
      for (int64_t row = first_row; row < last_row; ++row)
        target[column * to_stride + row] = source[row * from_stride + column];
  }
}

// One register's values at once. Loops over arrays are not always made into vectors.
#if defined(__AVX512F__)
#define MPQ_REGISTER 64
#elif defined(__AVX2__)
#define MPQ_REGISTER 32
#else
#define MPQ_REGISTER 16
#endif
typedef float Lanes __attribute__((vector_size(MPQ_REGISTER)));
typedef int32_t IntLanes __attribute__((vector_size(MPQ_REGISTER)));
#undef MPQ_REGISTER
constexpr int64_t kLanes = sizeof(Lanes) / sizeof(float);

// The first `count`, the others 0.
inline Lanes load_lanes(const float* x, int64_t count) {
  Lanes lanes = {};
  memcpy(&lanes, x, static_cast<size_t>(count) * sizeof(float));
  return lanes;
}

inline double sum_of(Lanes lanes) {
  double sum = 0;
  for (int64_t i = 0; i < kLanes; ++i) sum += static_cast<double>(lanes[i]);
  return sum;
}

[[maybe_unused]] Moments generic_moments(const float* x, int64_t count, float pivot) {
  constexpr int64_t kBatch = 1024;  // float32 sums of this many, float64 sums of these
  constexpr int kChains = 4;        // sums that do not wait for one another
  Moments total{0, 0};
  int64_t i = 0;
  while (count - i >= kChains * kLanes) {
    const int64_t end = count - i < kBatch ? count : i + kBatch;
    Lanes sums[kChains] = {}, squares[kChains] = {};
    for (; i + kChains * kLanes <= end; i += kChains * kLanes) {
#pragma GCC unroll 4
      for (int chain = 0; chain < kChains; ++chain) {
        const Lanes moved = load_lanes(x + i + chain * kLanes, kLanes) - pivot;
        sums[chain] += moved;
        squares[chain] += moved * moved;
      }
    }
    total.sum += sum_of((sums[0] + sums[1]) + (sums[2] + sums[3]));
    total.squares += sum_of((squares[0] + squares[1]) + (squares[2] + squares[3]));
  }
  for (; i < count; ++i) {
    const auto moved = static_cast<double>(x[i] - pivot);
    total.sum += moved;
    total.squares += moved * moved;
  }
  return total;
}

inline Lanes all(float value) { return Lanes{} + value; }

// Adds to `count` outputs of row r, which begin at y.
inline void add_to_row(const Addends& addends, int64_t r, int64_t row_stride, int64_t count,
                       float* y) {
  const float* const added = addends.first + (addends.per_pixel ? r * row_stride : r);
  const Lanes same = all(*added);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const Lanes more = addends.per_pixel ? load_lanes(added + i, kLanes) : same;
    const Lanes sum = load_lanes(y + i, kLanes) + more;
    memcpy(y + i, &sum, sizeof sum);
  }
  for (; i < count; ++i) y[i] = y[i] + added[addends.per_pixel ? i : 0];
}

[[maybe_unused]] void generic_finish(const int32_t* acc, const RowEpilogue& epilogue,
                                     const Addends& addends, int64_t rows, int64_t count, float* y,
                                     int64_t row_stride) {
  for (int64_t r = 0; r < rows; ++r, y += row_stride) {
    const int32_t* sums = acc + r * kPixels;
    const uint32_t correction = static_cast<uint32_t>(epilogue.correction[r]);
    const float scale = epilogue.scale[r], bias = epilogue.bias[r];
    float* const out = y;
    if (count == kPixels) {
      for (int64_t i = 0; i < kPixels; ++i)
        out[i] =
            static_cast<float>(static_cast<int32_t>(static_cast<uint32_t>(sums[i]) - correction)) *
                scale +
            bias;
    } else {
      for (int64_t i = 0; i < count; ++i)
        out[i] =
            static_cast<float>(static_cast<int32_t>(static_cast<uint32_t>(sums[i]) - correction)) *
                scale +
            bias;
    }
    if (addends.first != nullptr) add_to_row(addends, r, row_stride, count, out);
  }
}

[[maybe_unused]] void generic_finish_turned(const int32_t* acc, const RowEpilogue& epilogue,
                                            const float* added, int64_t rows, int64_t count,
                                            float* y, int64_t pixel_stride) {
  float values[kGroupSums];
  generic_finish(acc, epilogue, {nullptr, false}, rows, kPixels, values, kPixels);
  for (int64_t i = 0; i < count; ++i) {
    float* const out = y + i * pixel_stride;
    if (added == nullptr) {
      for (int64_t r = 0; r < rows; ++r) out[r] = values[r * kPixels + i];
    } else {
      const float* const with = added + i * pixel_stride;
      for (int64_t r = 0; r < rows; ++r) out[r] = values[r * kPixels + i] + with[r];
    }
  }
}

// a * b + c, rounded once where the processor has an instruction for that.
inline Lanes multiply_add(Lanes a, Lanes b, Lanes c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(__FMA__)
  return _mm256_fmadd_ps(a, b, c);
#elif defined(__aarch64__)
  return vfmaq_f32(c, a, b);
#else
  return a * b + c;
#endif
}

// a / b to about one unit in the last place, for b within 1e-37 and 1e37.
inline Lanes quotient(Lanes a, Lanes b) {
#if defined(__AVX512F__)
  // An estimate of the reciprocal, improved once: division is slow at this width.
  const Lanes estimate = _mm512_rcp14_ps(b);
  const Lanes error = _mm512_fnmadd_ps(b, estimate, all(1.0f));
  return a * multiply_add(estimate, error, estimate);
#else
  return a / b;
#endif
}

// To whole numbers, below 2^22.
inline Lanes rounded(Lanes value) {
  constexpr float kRound = 12582912.0f;
  return (value + kRound) - kRound;
}

// 2^whole * exp(rest), for whole numbers within 126 and |rest| < 0.4, to about one unit in the last
// place: the power by its bits, the rest by its Taylor series.
inline Lanes scaled_exp(Lanes whole, Lanes rest) {
  constexpr float kTaylor[] = {1.0f / 720.0f, 1.0f / 120.0f, 1.0f / 24.0f, 1.0f / 6.0f,
                               0.5f,          1.0f,          1.0f};
  Lanes series = all(1.0f / 5040.0f);
  for (const float coefficient : kTaylor) series = multiply_add(series, rest, all(coefficient));
  const IntLanes bits = (__builtin_convertvector(whole, IntLanes) + 127) << 23;
  Lanes power;
  memcpy(&power, &bits, sizeof power);
  return series * power;
}

constexpr float kLog2E = 1.44269504088896341f;

// exp(high + low) for -87.4 < high < 87.4 and a small `low`. ln 2 is the sum of two, of which the
// first has few digits.
inline Lanes exp_of(Lanes high, Lanes low) {
  const Lanes whole = rounded(high * kLog2E);
  const Lanes rest = multiply_add(whole, all(-0.693359375f), high);
  return scaled_exp(whole, multiply_add(whole, all(2.12194440e-4f), rest) + low);
}

// value * sigmoid(gate).
inline Lanes gated(Lanes value, Lanes gate) {
  const Lanes most = all(87.0f), nothing = {};
  Lanes exponent = gate < most ? gate : most;  // a NaN becomes 87 here, and stays in `value`
  exponent = exponent > -most ? exponent : -most;
  // Below it is less than 1e-35.
  return gate < -most ? nothing : quotient(value, 1.0f + exp_of(-exponent, nothing));
}

inline Lanes silu(Lanes value) { return gated(value, value); }

// x * (1 + tanh(u)) / 2 is x * sigmoid(2u).
inline Lanes gelu_by_tanh(Lanes x) {
  return gated(x, x * multiply_add(all(kGeluGateOfCube), x * x, all(kGeluGate)));
}

// x - x * Q(x) above 0, x * Q(-x) below it, where Q(t) = erfc(t / sqrt(2)) / 2: no digits cancel.
// x^2 is the exact square of its upper digits and a rest, for an error in it is one of the power.
inline Lanes gelu_by_erf(Lanes x) {
  const Lanes nothing = {}, end = all(kGeluEnd);
  Lanes t = x < nothing ? -x : x;
  t = t < end ? t : end;  // a NaN, too; it stays in `x`
  IntLanes bits;
  memcpy(&bits, &t, sizeof bits);
  bits &= ~0xfff;
  Lanes upper;
  memcpy(&upper, &bits, sizeof upper);
  const Lanes power = exp_of(upper * upper * -0.5f, (t + upper) * (t - upper) * -0.5f);
  Lanes numerator = all(kMills[0][0]), denominator = all(kMills[1][0]);
#pragma GCC unroll 4
  for (int i = 1; i < kMillsTerms; ++i) {
    numerator = multiply_add(numerator, t, all(kMills[0][i]));
    denominator = multiply_add(denominator, t, all(kMills[1][i]));
  }
  denominator = multiply_add(denominator, t, all(1.0f));
  const Lanes tail = quotient(t * numerator, denominator) * power;
  return (x < nothing ? nothing : x) - (t < end ? tail : nothing);
}

template <typename Function>
inline void for_each_lanes(const float* x, int64_t count, float* y, const Function& function) {
  for (int64_t i = 0; i < count; i += kLanes) {
    const int64_t lanes = count - i < kLanes ? count - i : kLanes;
    if (lanes == kLanes) {
      const Lanes result = function(load_lanes(x + i, kLanes));
      memcpy(y + i, &result, sizeof result);
    } else {
      const Lanes result = function(load_lanes(x + i, lanes));
      memcpy(y + i, &result, static_cast<size_t>(lanes) * sizeof(float));
    }
  }
}

[[maybe_unused]] void generic_normalize(const float* x, int64_t count, const ChannelNorm& norm,
                                        float* y) {
  const ChannelNorm n = norm;
  for_each_lanes(x, count, y, [n](Lanes v) { return (v - n.mean) * n.factor + n.bias; });
}

[[maybe_unused]] void generic_normalize_silu(const float* x, int64_t count, const ChannelNorm& norm,
                                             float* y) {
  const ChannelNorm n = norm;
  for_each_lanes(x, count, y, [n](Lanes v) { return silu((v - n.mean) * n.factor + n.bias); });
}

[[maybe_unused]] void generic_modulate(const float* x, int64_t count, const TokenNorm& norm,
                                       const float* scale, const float* shift, float* y) {
  const TokenNorm n = norm;
  const auto modulated = [&](int64_t i, int64_t lanes) {
    const Lanes normal = (load_lanes(x + i, lanes) - n.mean) * n.factor;
    return multiply_add(normal, load_lanes(scale + i, lanes), load_lanes(shift + i, lanes));
  };
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const Lanes result = modulated(i, kLanes);
    memcpy(y + i, &result, sizeof result);
  }
  if (i == count) return;
  const Lanes result = modulated(i, count - i);
  memcpy(y + i, &result, static_cast<size_t>(count - i) * sizeof(float));
}

// function(x) * factor; a null factor is 1.
template <typename Function>
inline void for_each_factor(const float* x, const float* factor, int64_t count, float* y,
                            const Function& function) {
  if (factor == nullptr) return for_each_lanes(x, count, y, function);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const Lanes result = function(load_lanes(x + i, kLanes)) * load_lanes(factor + i, kLanes);
    memcpy(y + i, &result, sizeof result);
  }
  if (i == count) return;
  const Lanes result = function(load_lanes(x + i, count - i)) * load_lanes(factor + i, count - i);
  memcpy(y + i, &result, static_cast<size_t>(count - i) * sizeof(float));
}

[[maybe_unused]] void generic_gelu(const float* x, const float* factor, int64_t count, float* y) {
  for_each_factor(x, factor, count, y, [](Lanes v) { return gelu_by_erf(v); });
}

[[maybe_unused]] void generic_gelu_tanh(const float* x, const float* factor, int64_t count,
                                        float* y) {
  for_each_factor(x, factor, count, y, [](Lanes v) { return gelu_by_tanh(v); });
}

// What processors have in common; each changes what it does in a way of its own. Has no unpack,
// multiply, spins and attention.
template <uint8_t flip>
constexpr Kernels generic_kernels(const char* name, int64_t piece_products) {
  return {
      name,
      flip,
      1,
      1,
      piece_products,
      always,
      nothing,
      nothing,
      generic_quantize_quad<flip>,
      generic_quantize_rows<flip>,
      nullptr,
      nullptr,
      generic_finish,
      generic_finish_turned,
      nullptr,
      nullptr,
      generic_transpose,
      generic_moments,
      generic_normalize,
      generic_normalize_silu,
      generic_modulate,
      generic_gelu,
      generic_gelu_tanh,
      nullptr,
  };
}

}  // namespace
}  // namespace mpq
