// For processors that none of the other kernels fits.
#include "attention.h"
#include "generic.h"

namespace mpq {
namespace {

// Bytewise sum of two words, without carries between bytes.
uint64_t add_bytes(uint64_t a, uint64_t b) {
  constexpr uint64_t kHigh = 0x8080808080808080;
  return ((a & ~kHigh) + (b & ~kHigh)) ^ ((a ^ b) & kHigh);
}

uint64_t all_bytes(int8_t value) {
  return uint64_t{0x0101010101010101} * static_cast<uint8_t>(value);
}

// Eight bits to eight bytes, each 0 or 255.
uint64_t spread(uint64_t bits) {
  const uint64_t alone = (bits * 0x0101010101010101) & 0x8040201008040201;
  constexpr uint64_t kLow = 0x7f7f7f7f7f7f7f7f;
  const uint64_t high = (((alone & kLow) + kLow) | alone) & ~kLow;  // bit 7 of bytes that are not 0
  return (high >> 7) * 255;
}

void unpack(const RowPlanes* rows, int64_t count, int64_t bytes, int64_t blocks, int8_t* out) {
  for (int64_t r = 0; r < count; ++r) {
    for (int64_t block = 0; block < blocks; ++block) {
      uint64_t words[8];
      for (uint64_t& word : words) word = all_bytes(rows[r].offset);
      for (int p = 0; p < rows[r].count; ++p) {
        const uint64_t bits = block_bits(rows[r].bits[p], bytes, block);
        const uint64_t step = all_bytes(rows[r].steps[p]);
        for (int i = 0; i < 8; ++i)
          words[i] = add_bytes(words[i], spread((bits >> (8 * i)) & 255) & step);
      }
      memcpy(out + (block * kRows + rows[r].place) * kBlockColumns, words, sizeof words);
    }
  }
}

int64_t spin(int64_t rounds) {
  typedef uint32_t Words __attribute__((vector_size(sizeof(IntLanes))));
  return spin_chains<8, kLanes>(rounds, Words{}, Words{} + 3,
                                [](Words sum, Words& codes, Words weights) {
                                  touch(codes);  // else one product serves all chains
                                  return sum + codes * weights;
                                });
}

int64_t spin_float(int64_t rounds) {
  typedef float Floats __attribute__((vector_size(sizeof(IntLanes))));
  return spin_chains<8, kLanes>(rounds, Floats{}, Floats{} + 1.0f,
                                [](Floats sum, Floats& inputs, Floats weights) {
                                  touch(inputs);  // else one product serves all chains
                                  return sum + inputs * weights;
                                });
}

void multiply(const int8_t* weights, const Lines& lines, int64_t blocks, int64_t count,
              int32_t* acc) {
  for (int64_t g = 0; g < count; ++g) {
    for (int64_t r = 0; r < kRows; ++r) {
      int32_t sums[kPixels] = {};
      for (int64_t block = 0; block < blocks; ++block) {
        const int8_t* w = weights + (block * kRows + r) * kBlockColumns;
        const uint8_t* codes = lines.first[g] + lines.blocks[block];
        for (int64_t line = 0; line < kBlockLines; ++line, w += 4, codes += lines.stride)
          for (int64_t i = 0; i < kPixels; ++i)
            sums[i] += codes[4 * i] * w[0] + codes[4 * i + 1] * w[1] + codes[4 * i + 2] * w[2] +
                       codes[4 * i + 3] * w[3];
      }
      memcpy(acc + g * kGroupSums + r * kPixels, sums, sizeof sums);
    }
  }
}

constexpr Kernels table() {
  Kernels kernels = generic_kernels<0>("portable", int64_t{1} << 17);
  kernels.unpack = unpack;
  kernels.multiply = multiply;
  kernels.spin = spin;
  kernels.spin_float = spin_float;
  kernels.attention = &kPortableAttention;
  return kernels;
}

}  // namespace

extern const Kernels kPortable;
const Kernels kPortable = table();

}  // namespace mpq
