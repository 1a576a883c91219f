// The first launch: activations to int8, channels last, spatial padding written out, so that the
// second reads an output pixel's columns at fixed distances from one another.
#include "elements.h"
#include "kernels.h"

namespace mpq {
namespace {

// Of one step of the sampler.
struct Quantizer {
  float scale, zero_point, top;
};

// A padded pixel's chunk.
struct Place {
  int32_t pixel, chunk;
};

// clamp(rne((x * r) / s) + z, 0, top); not a number gives 0.
__device__ __forceinline__ int32_t code_of(float x, float factor, const Quantizer& quantizer) {
  const float rounded = rintf(__fdiv_rn(__fmul_rn(x, factor), quantizer.scale));
  const float shifted = __fadd_rn(rounded, quantizer.zero_point);
  return static_cast<int32_t>(fminf(fmaxf(shifted, 0.0f), quantizer.top));
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
  const int64_t image = line / p.padded_height, image_plane = int64_t{p.call.height} * p.call.width;
  const int64_t place = int64_t{y} * p.call.width + x;
  const bool inside = x >= 0 && x < p.call.width && y >= 0 && y < p.call.height;
  const int64_t begin = image * p.layer.channels * image_plane;
  if (p.channels_adjacent) return {begin + place * p.layer.channels, 1, inside};
  return {begin + place, image_plane, inside};
}

// The values of a chunk, of which `count` are there; 16 bytes at a time where they lie side by
// side.
template <typename Element>
__device__ __forceinline__ void load_chunk(const Problem& p, const Source& source, int32_t channel,
                                           int32_t count, float (&values)[kChunk]) {
  const Element* from =
      static_cast<const Element*>(p.call.x) + source.begin + channel * source.channel_stride;
  using Vector = Adjacent<Element>;
  if (source.channel_stride == 1 && count == kChunk &&
      reinterpret_cast<uintptr_t>(from) % sizeof(Vector) == 0) {
#pragma unroll
    for (int i = 0; i < kChunk / Vector::kCount; ++i) {
      const Vector vector = reinterpret_cast<const Vector*>(from)[i];
#pragma unroll
      for (int j = 0; j < Vector::kCount; ++j) {
        values[i * Vector::kCount + j] = widen(vector.elements[j]);
      }
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
__device__ __forceinline__ void quantize_chunk(const Problem& p, const Quantizer& quantizer,
                                               int32_t pixel, int32_t chunk) {
  const Source source = source_of(p, pixel);
  const auto zero_point = static_cast<int32_t>(quantizer.zero_point);
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
      if (source.inside) code = code_of(values[i], p.layer.input_factor[channel + i], quantizer);
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

// Grid: a thread for every chunk of padded pixels, at most 2^27.
template <typename Element>
__device__ __forceinline__ void quantize(const Problem& p) {
  const int32_t step_index = p.call.step_index[0];
  const Quantizer quantizer{p.layer.act_scale[step_index],
                            static_cast<float>(p.layer.act_zero_point[step_index]),
                            static_cast<float>((1 << p.layer.act_bits) - 1)};
  const auto first = static_cast<int32_t>(blockIdx.x * kQuantizeThreads + threadIdx.x);
  const auto threads = static_cast<int32_t>(gridDim.x * kQuantizeThreads);
  // Neighbouring threads read neighbouring values: channels of a pixel, pixels of an image.
  const bool adjacent = p.channels_adjacent;
  const int32_t chunks = p.pixel_bytes / kChunk, across = adjacent ? chunks : p.padded_pixels;
  if (first < p.padded_pixels * chunks) {
    const int32_t line = first / across, place = first - line * across;
    quantize_chunk<Element>(p, quantizer, adjacent ? line : place, adjacent ? place : line);
  }
  for (int32_t i = first; i < p.blocks * kBlockChunks; i += threads) {
    p.chunk_offsets[i] = chunk_offset(p, i);
  }
  for (int32_t i = first; i < p.ticket_count; i += threads) p.tickets[i] = 0;
}

}  // namespace
}  // namespace mpq

#define MPQ_KERNEL(name, float16)                                                                  \
  extern "C" __global__ void __launch_bounds__(mpq::kQuantizeThreads) name(const mpq::Problem p) { \
    if constexpr (float16) {                                                                       \
      mpq::quantize<mpq::Float16>(p);                                                              \
    } else {                                                                                       \
      mpq::quantize<float>(p);                                                                     \
    }                                                                                              \
  }
MPQ_QUANTIZE_KERNELS(MPQ_KERNEL)
#undef MPQ_KERNEL
