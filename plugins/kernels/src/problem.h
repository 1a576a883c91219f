// What a call comes down to: the sizes and places that both launches agree on. Host and device
// code share it.
#pragma once

#include "fixed_width.h"
// What it describes has these widths.
#include "../include/mpq_kernels.h"

namespace mpq {

constexpr int kTileRows = 32;       // rows of a tile: one warp's
constexpr int kBlockColumns = 128;  // columns of a block: bytes of an activation row in a stage
constexpr int kChunk = 16;          // bytes that are copied together
constexpr int kBlockChunks = kBlockColumns / kChunk;
constexpr int kSmallPixels = 32;  // at most this many take the path without shared activations
constexpr int32_t kNoColumn = -1;
constexpr int kFewPlanes = 5;  // layers of more take kernels of their own: tables need registers
constexpr int kMaxPlanes = 8;

// How the products are cut into thread blocks.
struct Cut {
  int32_t pixels;  // output pixels of one thread block: 8, 16, 32, 64 or 128
  int32_t tiles;   // tiles of rows of one thread block: 1 for up to 32 pixels, else 2 or 4
  int32_t splits;  // thread blocks that share one output, each with its range of the columns
};

// A call as kernels see it. An output pixel, or a row of a linear layer's input, is a "pixel" here.
struct Problem {
  MpqLayer layer;
  MpqCall call;

  // Activations: int8 [batch, padded_height, padded_width, pixel_bytes], where a pixel holds its
  // groups' channels, each group padded to whole chunks.
  int32_t group_channels, group_bytes, pixel_bytes;
  int32_t padded_height, padded_width, padded_pixels;
  int32_t out_height, out_width, image_pixels, pixels;
  bool channels_adjacent;                // a pixel's channels lie side by side in x and y
  int32_t pixel_stride, channel_stride;  // of y
  bool paired;  // even pixels and their next lie side by side in y, and can be stored together

  int32_t group_rows, group_tiles, padded_rows;
  int32_t blocks;    // blocks of columns
  bool offset_form;  // int8 activations are (code << e) - 128, else (code - z) << e
  Cut cut;
  int32_t pixel_tiles;

  // Workspace. Where the bytes of a chunk of columns lie, counted from those of the output pixel's
  // first tap and channel: int32 [blocks * kBlockChunks], kNoColumn beyond the last column.
  int8_t* activations;
  int32_t* chunk_offsets;
  uint32_t* tickets;  // of every output tile, how many of its splits are done
  int32_t* partials;  // sums of the splits
  int32_t ticket_count;
  size_t workspace_bytes;
};

}  // namespace mpq
