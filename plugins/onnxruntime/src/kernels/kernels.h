// What differs between processors: rounding, unpacking rows, integer products. The loops around
// them are in product.h, conv.cpp and linear.cpp.
//
// Everything is laid out for products of four: a *line* holds four columns of sixteen pixels,
// pixel-major, 64 bytes; a *block* is sixteen lines, 64 columns. An output pixel, or a row of a
// linear layer's input, is a "pixel" here.
#pragma once

#include <cstdint>
#include <vector>

namespace mpq {

struct AttentionKernels;

constexpr int64_t kPixels = 16;        // of a line, and of a group
constexpr int64_t kLineBytes = 64;     // four columns of sixteen pixels
constexpr int64_t kBlockLines = 16;    // lines of a block
constexpr int64_t kBlockColumns = 64;  // columns of a block
constexpr int64_t kRows = 32;          // rows that are unpacked and multiplied together
constexpr int64_t kMaxPlanes = 8;
constexpr int64_t kMaxGroups = 4;  // groups of one product
constexpr int64_t kGroupSums = kRows * kPixels;

// Where the lines of up to kMaxGroups groups lie: line l of block b of group g at
// first[g] + blocks[b] + l * stride.
struct Lines {
  const uint8_t* first[kMaxGroups];
  const int64_t* blocks;
  int64_t stride;
};

// One row of a packed matrix.
struct RowPlanes {
  const uint8_t* bits[kMaxPlanes];  // plane p: bit k of the row in bit k % 8 of byte k / 8
  int8_t steps[kMaxPlanes];
  int8_t offset;
  int8_t count;  // planes; at least one
  int8_t place;  // which of the rows that are unpacked together
};

// How activations become codes at one sampler step.
struct ActivationStep {
  float scale;
  float zero_point;
  float top;  // the largest code
};

// Four channels of an image. x[channel] may be null: that channel's stored bytes are 0.
struct Quad {
  const float* x[4];
  float factor[4];
  uint8_t shift[4];
};

// How sums of rows become outputs: y = float(acc - correction) * scale + bias.
struct RowEpilogue {
  const int32_t* correction;
  const float* scale;
  const float* bias;
};

// What is added to these outputs afterwards, in a sum of its own.
struct Addends {
  const float* first;  // null: nothing
  bool per_pixel;      // they lie as y does; else one for each row, side by side
};

struct Moments {
  double sum, squares;
};

// Normalisation of one channel: y = (x - mean) * factor + bias.
struct ChannelNorm {
  float mean, factor, bias;
};

// Normalisation of one token, before it is modulated: (x - mean) * factor.
struct TokenNorm {
  float mean, factor;
};

struct Kernels {
  const char* name;
  // Stored codes are xored with this: 0x80 turns `code` into the signed `code - 128`.
  uint8_t flip;
  int64_t bytes_per_weight;
  int64_t groups;          // groups of sixteen pixels that one product takes at most
  int64_t piece_products;  // multiply-accumulates that are worth waking a thread for: some 10 us

  bool (*supported)();

  // Around the products of one piece of work on one thread.
  void (*begin)();
  void (*end)();

  // Codes, shifted, of four channels of rows of pixels, interleaved: out[4 * pixel + channel]. Rows
  // of x are adjacent, those of `out` `out_stride` bytes apart.
  void (*quantize_quad)(const Quad& quad, const ActivationStep& step, int64_t rows, int64_t columns,
                        uint8_t* out, int64_t out_stride);

  // Codes, shifted, of `rows` adjacent rows of x; each column has its own factor and shift. Rows of
  // `out` are `out_stride` bytes apart.
  void (*quantize_rows)(const float* x, const float* factor, const uint8_t* shift,
                        const ActivationStep& step, int64_t rows, int64_t columns, uint8_t* out,
                        int64_t out_stride);

  // `count` rows of at most kRows as int8: block b of a row begins at out + (b * kRows + place) *
  // kBlockColumns * bytes_per_weight. `bytes` are there in each row of planes; columns beyond them
  // are the row's offset.
  void (*unpack)(const RowPlanes* rows, int64_t count, int64_t bytes, int64_t blocks, int8_t* out);

  // acc[g * kGroupSums + r * kPixels + pixel] = sum over the columns of `blocks` blocks, for kRows
  // rows and `count` groups.
  void (*multiply)(const int8_t* weights, const Lines& lines, int64_t blocks, int64_t count,
                   int32_t* acc);

  // Outputs of `rows` rows and `count` pixels from the sums of one group: that of row r and pixel i
  // goes to y[r * row_stride + i].
  void (*finish)(const int32_t* acc, const RowEpilogue& epilogue, const Addends& addends,
                 int64_t rows, int64_t count, float* y, int64_t row_stride);

  // The same, turned: to y[i * pixel_stride + r]. What is added, if anything, lies as y does.
  void (*finish_turned)(const int32_t* acc, const RowEpilogue& epilogue, const float* added,
                        int64_t rows, int64_t count, float* y, int64_t pixel_stride);

  // Does `rounds` of the products above on registers alone, and returns how many multiply-
  // accumulates that were: the most that this processor can do.
  int64_t (*spin)(int64_t rounds);

  // The same of float32 products, which are not these kernels' own: ONNX Runtime's use the same
  // instructions.
  int64_t (*spin_float)(int64_t rounds);

  // to[column][row] = from[row][column], for 32-bit values; strides in values.
  void (*transpose)(const void* from, int64_t from_stride, int64_t rows, int64_t columns, void* to,
                    int64_t to_stride);

  // Sums of (x - pivot) and of its squares, of `count` values.
  Moments (*moments)(const float* x, int64_t count, float pivot);

  // y of `count` values of one channel; with SiLU, y * sigmoid(y).
  void (*normalize)(const float* x, int64_t count, const ChannelNorm& norm, float* y);
  void (*normalize_silu)(const float* x, int64_t count, const ChannelNorm& norm, float* y);

  // y of `count` channels of one token: normalised, times scale, plus shift.
  void (*modulate)(const float* x, int64_t count, const TokenNorm& norm, const float* scale,
                   const float* shift, float* y);

  // y = factor * gelu(x) of `count` values, by erf and by the approximation with tanh; `factor` may
  // be null and is 1 then. Infinite x give infinity and 0.
  void (*gelu)(const float* x, const float* factor, int64_t count, float* y);
  void (*gelu_tanh)(const float* x, const float* factor, int64_t count, float* y);

  const AttentionKernels* attention;
};

// The kernels that this processor runs, fastest first: "amx", "avx512vnni", "avxvnni", "avx2",
// "neon", "portable". Those that were not compiled in, or that the processor lacks, are not among
// them.
std::vector<const Kernels*> available_kernels();

// The first of them, or those that the environment variable MPQ_CPU_KERNELS names. Throws
// ContractError on a name that is not available; the message lists those that are.
const Kernels& chosen_kernels();

const char* name_of(const Kernels& kernels);

}  // namespace mpq
