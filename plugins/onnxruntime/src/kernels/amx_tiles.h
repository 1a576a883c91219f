// AMX's tile registers: eight of sixteen rows of 64 bytes.
#pragma once

#include <immintrin.h>
#include <stdint.h>

namespace mpq {
namespace {

constexpr int64_t kSide = 16;  // rows of a tile, and its 32-bit columns
constexpr int64_t kRowBytes = 64;
constexpr int64_t kTileBytes = kSide * kRowBytes;

// Until _tile_release(), on this thread.
inline void configure_tiles() {
  struct alignas(64) Configuration {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t bytes_per_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  } static const configuration;
  _tile_loadconfig(&configuration);
}

}  // namespace
}  // namespace mpq
