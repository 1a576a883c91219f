// AMX: tiles of 16 rows x 64 columns of weights times 64 columns x 16 pixels of codes. A block of
// unpacked rows and a block of lines are tiles as they lie.
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "amx_tiles.h"
#include "attention.h"
#include "avx512.h"

namespace mpq {
namespace {

constexpr int64_t kTileRows = 16;

// Linux gives tile registers to processes that ask for them.
bool granted() {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

bool supported() {
  unsigned eax = 7, ebx = 0, ecx = 0, edx = 0;
  __asm__("cpuid" : "+a"(eax), "+b"(ebx), "+c"(ecx), "+d"(edx));
  const bool bf16 = (edx & (1u << 22)) != 0 && __builtin_cpu_supports("avx512bf16");
  const bool tiles = (edx & (1u << 24)) != 0, int8 = (edx & (1u << 25)) != 0;
  return avx512::supported() && bf16 && tiles && int8 && granted();
}

void end() { _tile_release(); }

constexpr int64_t kTileSums = kTileRows * kPixels;
constexpr int64_t kBlockBytes = kRows * kBlockColumns;
constexpr int kAccBytes = kPixels * static_cast<int>(sizeof(int32_t));

int64_t spin(int64_t rounds) {
  alignas(64) static const uint8_t zeros[kBlockColumns * kTileRows] = {};
  configure_tiles();
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_loadd(4, zeros, kBlockColumns);
  _tile_loadd(5, zeros, kBlockColumns);
  _tile_loadd(6, zeros, kLineBytes);
  _tile_loadd(7, zeros, kLineBytes);
  for (int64_t round = 0; round < rounds; ++round) {
    _tile_dpbsud(0, 4, 6);
    _tile_dpbsud(1, 4, 7);
    _tile_dpbsud(2, 5, 6);
    _tile_dpbsud(3, 5, 7);
  }
  end();
  return rounds * 4 * kTileRows * kPixels * kBlockColumns;
}

void multiply_two(const int8_t* weights, const Lines& lines, int64_t blocks, int32_t* acc) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t block = 0; block < blocks; ++block) {
    const int8_t* w = weights + block * kBlockBytes;
    _tile_loadd(4, w, kBlockColumns);
    _tile_loadd(6, lines.first[0] + lines.blocks[block], lines.stride);
    _tile_dpbsud(0, 4, 6);
    _tile_loadd(7, lines.first[1] + lines.blocks[block], lines.stride);
    _tile_dpbsud(1, 4, 7);
    _tile_loadd(5, w + kTileRows * kBlockColumns, kBlockColumns);
    _tile_dpbsud(2, 5, 6);
    _tile_dpbsud(3, 5, 7);
  }
  _tile_stored(0, acc, kAccBytes);
  _tile_stored(1, acc + kGroupSums, kAccBytes);
  _tile_stored(2, acc + kTileSums, kAccBytes);
  _tile_stored(3, acc + kGroupSums + kTileSums, kAccBytes);
}

void multiply_one(const int8_t* weights, const Lines& lines, int64_t blocks, int32_t* acc) {
  _tile_zero(0);
  _tile_zero(2);
  for (int64_t block = 0; block < blocks; ++block) {
    const int8_t* w = weights + block * kBlockBytes;
    _tile_loadd(4, w, kBlockColumns);
    _tile_loadd(5, w + kTileRows * kBlockColumns, kBlockColumns);
    _tile_loadd(6, lines.first[0] + lines.blocks[block], lines.stride);
    _tile_dpbsud(0, 4, 6);
    _tile_dpbsud(2, 5, 6);
  }
  _tile_stored(0, acc, kAccBytes);
  _tile_stored(2, acc + kTileSums, kAccBytes);
}

void multiply(const int8_t* weights, const Lines& lines, int64_t blocks, int64_t count,
              int32_t* acc) {
  (count == 2 ? multiply_two : multiply_one)(weights, lines, blocks, acc);
}

constexpr Kernels table() {
  Kernels kernels = avx512::shared_kernels("amx", int64_t{1} << 24);
  kernels.groups = 2;
  kernels.supported = supported;
  kernels.begin = configure_tiles;
  kernels.end = end;
  kernels.multiply = multiply;
  kernels.spin = spin;
  kernels.attention = &kAmxAttention;
  return kernels;
}

}  // namespace

extern const Kernels kAmx;
const Kernels kAmx = table();

}  // namespace mpq
