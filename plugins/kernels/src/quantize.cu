// The first launch: activations to int8, channels last, spatial padding written out, so that the
// second reads an output pixel's columns at fixed distances from one another.
#include <algorithm>

#include "elements.h"
#include "problem.h"

namespace mpq {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxThreadBlocks = int64_t{1} << 20;

struct Step {
  float scale, zero_point, top;
};

// A padded pixel's chunk.
struct Place {
  int32_t pixel, chunk;
};

// clamp(rne((x * r) / s) + z, 0, top); not a number gives 0.
__device__ __forceinline__ int32_t code_of(float x, float factor, const Step& step) {
  const float rounded = rintf(__fdiv_rn(__fmul_rn(x, factor), step.scale));
  return static_cast<int32_t>(fminf(fmaxf(__fadd_rn(rounded, step.zero_point), 0.0f), step.top));
}

// Where x has what becomes one padded pixel.
struct Source {
  int64_t begin, channel_stride;
  bool inside;
};

__device__ __forceinline__ Source source_of(const Problem& p, int32_t pixel) {
  if (p.layer.linear != 0) return {int64_t{pixel} * p.layer.channels, 1, true};
  const int32_t column = pixel % p.padded_width, line = pixel / p.padded_width;
  const int32_t x = column - p.layer.pads[1], y = line % p.padded_height - p.layer.pads[0];
  const int64_t image = line / p.padded_height, plane = int64_t{p.call.height} * p.call.width;
  const bool inside = x >= 0 && x < p.call.width && y >= 0 && y < p.call.height;
  return {image * p.layer.channels * plane + int64_t{y} * p.call.width + x, plane, inside};
}

// The values of a chunk, of which `count` are there; 16 bytes at a time where they lie side by
// side.
template <typename Element>
__device__ __forceinline__ void load_chunk(const Problem& p, const Source& source, int32_t channel,
                                           int32_t count, float (&values)[kChunk]) {
  const Element* from =
      static_cast<const Element*>(p.call.x) + source.begin + channel * source.channel_stride;
  using Part = Adjacent<Element>;
  if (source.channel_stride == 1 && count == kChunk &&
      reinterpret_cast<uintptr_t>(from) % sizeof(Part) == 0) {
#pragma unroll
    for (int i = 0; i < kChunk / Part::kCount; ++i) {
      const Part part = reinterpret_cast<const Part*>(from)[i];
#pragma unroll
      for (int j = 0; j < Part::kCount; ++j) values[i * Part::kCount + j] = widen(part.elements[j]);
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < kChunk; ++i) {
    values[i] = i < count ? widen(from[i * source.channel_stride]) : 0.0f;
  }
}

// One chunk of one padded pixel.
template <typename Element>
__device__ __forceinline__ void quantize_chunk(const Problem& p, const Step& step, int32_t pixel,
                                               int32_t chunk) {
  const Source source = source_of(p, pixel);
  const auto zero_point = static_cast<int32_t>(step.zero_point);
  const int32_t group_chunks = p.group_bytes / kChunk, group = chunk / group_chunks;
  const int32_t first = chunk % group_chunks * kChunk;
  const int32_t channel = group * p.group_channels + first;
  const int32_t count = min(p.group_channels - first, kChunk);
  float values[kChunk];
  if (source.inside) load_chunk<Element>(p, source, channel, count, values);
  uint32_t words[4] = {};
#pragma unroll
  for (int i = 0; i < kChunk; ++i) {
    if (i < count) {
      int32_t code = zero_point;
      if (source.inside) code = code_of(values[i], p.layer.input_factor[channel + i], step);
      const int32_t power = int32_t{1} << p.layer.input_shift[channel + i];
      const int32_t value = p.offset_form ? code * power - 128 : (code - zero_point) * power;
      words[i / 4] |= (static_cast<uint32_t>(value) & 255u) << 8 * (i % 4);
    }
  }
  *reinterpret_cast<uint4*>(p.activations + int64_t{pixel} * p.pixel_bytes + chunk * kChunk) = {
      words[0], words[1], words[2], words[3]};
}

// Taps are padded to whole chunks one by one.
__device__ __forceinline__ int32_t chunk_offset(const Problem& p, int32_t chunk) {
  const int32_t group_chunks = p.group_bytes / kChunk, tap = chunk / group_chunks;
  const int32_t y = tap / p.layer.kernel_shape[1], x = tap % p.layer.kernel_shape[1];
  if (y >= p.layer.kernel_shape[0]) return kNoColumn;
  const int32_t pixels = y * p.layer.dilations[0] * p.padded_width + x * p.layer.dilations[1];
  return pixels * p.pixel_bytes + chunk % group_chunks * kChunk;
}

template <typename Element>
__global__ void __launch_bounds__(kThreads) quantize(const Problem p) {
  const int32_t step_index = p.call.step_index[0];
  const Step step{p.layer.act_scale[step_index],
                  static_cast<float>(p.layer.act_zero_point[step_index]),
                  static_cast<float>((1 << p.layer.act_bits) - 1)};
  const int32_t chunks = p.pixel_bytes / kChunk;
  const int64_t first = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const int64_t threads = int64_t{gridDim.x} * kThreads;
  // Neighbouring threads read neighbouring values: channels of a row, pixels of an image.
  for (int64_t i = first; i < int64_t{p.padded_pixels} * chunks; i += threads) {
    const auto [pixel, chunk] =
        p.layer.linear != 0
            ? Place{static_cast<int32_t>(i / chunks), static_cast<int32_t>(i % chunks)}
            : Place{static_cast<int32_t>(i % p.padded_pixels),
                    static_cast<int32_t>(i / p.padded_pixels)};
    quantize_chunk<Element>(p, step, pixel, chunk);
  }
  for (int64_t i = first; i < int64_t{p.blocks} * kBlockChunks; i += threads) {
    p.chunk_offsets[i] = chunk_offset(p, static_cast<int32_t>(i));
  }
  for (int64_t i = first; i < p.ticket_count; i += threads) p.tickets[i] = 0;
}

}  // namespace
}  // namespace mpq

int mpq_quantize(const MpqLayer* layer, const MpqCall* call, MpqStream stream) {
  mpq::Problem problem;
  const int status = mpq::prepare(layer, call, problem);
  if (status != MPQ_OK) return status;
  const int64_t chunks = int64_t{problem.padded_pixels} * (problem.pixel_bytes / mpq::kChunk);
  const int64_t blocks =
      std::min((chunks + mpq::kThreads - 1) / mpq::kThreads, mpq::kMaxThreadBlocks);
  const auto kernel = call->float16 != 0 ? mpq::quantize<mpq::Half> : mpq::quantize<float>;
  return mpq::launch(kernel, dim3(static_cast<unsigned>(blocks)), mpq::kThreads, 0, stream,
                     problem);
}
