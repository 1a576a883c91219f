// NEON with dot products of signed bytes: codes are stored as code - 128.
#include <arm_neon.h>
#if defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#include "attention.h"
#include "generic.h"

namespace mpq {
namespace {

constexpr uint8_t kFlip = 0x80;

bool supported() {
#if defined(__linux__)
  return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#else
  return true;  // every other aarch64 system this is built for has it
#endif
}

void unpack(const RowPlanes* rows, int64_t count, int64_t bytes, int64_t blocks, int8_t* out) {
  static const uint8_t kBitOfLane[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
  const uint8x16_t bit_of_lane = vld1q_u8(kBitOfLane);
  for (int64_t r = 0; r < count; ++r) {
    for (int64_t block = 0; block < blocks; ++block) {
      int8x16_t weights[4];
      for (int8x16_t& part : weights) part = vdupq_n_s8(rows[r].offset);
      for (int p = 0; p < rows[r].count; ++p) {
        const uint64_t bits = block_bits(rows[r].bits[p], bytes, block);
        const int8x16_t step = vdupq_n_s8(rows[r].steps[p]);
        for (int i = 0; i < 4; ++i) {
          const uint8x16_t both =
              vcombine_u8(vdup_n_u8(static_cast<uint8_t>(bits >> (16 * i))),
                          vdup_n_u8(static_cast<uint8_t>(bits >> (16 * i + 8))));
          const int8x16_t set = vreinterpretq_s8_u8(vtstq_u8(both, bit_of_lane));
          weights[i] = vaddq_s8(weights[i], vandq_s8(set, step));
        }
      }
      int8_t* to = out + (block * kRows + rows[r].place) * kBlockColumns;
      for (int i = 0; i < 4; ++i) vst1q_s8(to + 16 * i, weights[i]);
    }
  }
}

int64_t spin(int64_t rounds) {
  return spin_chains<20, 16>(rounds, vdupq_n_s32(0), vdupq_n_s8(1),
                             [](int32x4_t sum, int8x16_t codes, int8x16_t weights) {
                               return vdotq_s32(sum, codes, weights);
                             });
}

int64_t spin_float(int64_t rounds) {
  return spin_chains<20, 4>(rounds, vdupq_n_f32(0.0f), vdupq_n_f32(1.0f),
                            [](float32x4_t sum, float32x4_t inputs, float32x4_t weights) {
                              return vfmaq_f32(sum, inputs, weights);
                            });
}

// Every loop over `sums` is unrolled: only then do they stay in registers.
struct Tile {
  static constexpr int64_t kTileRows = 4, kRowBytes = kBlockColumns;

  template <int lane>
  static void multiply_line(const uint8_t* line, const int8x16_t w[kTileRows],
                            int32x4_t sums[kTileRows][4]) {
#pragma GCC unroll 4
    for (int quarter = 0; quarter < 4; ++quarter) {
      const int8x16_t codes = vreinterpretq_s8_u8(vld1q_u8(line + 16 * quarter));
#pragma GCC unroll 4
      for (int64_t r = 0; r < kTileRows; ++r)
        sums[r][quarter] = vdotq_laneq_s32(sums[r][quarter], codes, w[r], lane);
    }
  }

  static void multiply(const int8_t* weights, const Lines& lines, int64_t group, int64_t blocks,
                       int32_t* acc) {
    int32x4_t sums[kTileRows][4];
#pragma GCC unroll 4
    for (auto& row : sums)
#pragma GCC unroll 4
      for (int32x4_t& sum : row) sum = vdupq_n_s32(0);
    for (int64_t block = 0; block < blocks; ++block) {
      const int8_t* row = weights + block * kRows * kBlockColumns;
      const uint8_t* codes = lines.first[group] + lines.blocks[block];
      for (int64_t four = 0; four < kBlockColumns; four += 16, codes += 4 * lines.stride) {
        int8x16_t w[kTileRows];
        for (int64_t r = 0; r < kTileRows; ++r) w[r] = vld1q_s8(row + r * kBlockColumns + four);
        multiply_line<0>(codes, w, sums);
        multiply_line<1>(codes + lines.stride, w, sums);
        multiply_line<2>(codes + 2 * lines.stride, w, sums);
        multiply_line<3>(codes + 3 * lines.stride, w, sums);
      }
    }
#pragma GCC unroll 4
    for (int64_t r = 0; r < kTileRows; ++r)
#pragma GCC unroll 4
      for (int quarter = 0; quarter < 4; ++quarter)
        vst1q_s32(acc + r * kPixels + 4 * quarter, sums[r][quarter]);
  }
};

constexpr Kernels table() {
  Kernels kernels = generic_kernels<kFlip>("neon", int64_t{1} << 20);
  kernels.supported = supported;
  kernels.unpack = unpack;
  kernels.multiply = multiply_by_tiles<Tile>;
  kernels.spin = spin;
  kernels.spin_float = spin_float;
  kernels.attention = &kPortableAttention;
  return kernels;
}

}  // namespace

extern const Kernels kNeon;
const Kernels kNeon = table();

}  // namespace mpq
