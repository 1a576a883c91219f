// A convolution: its input is quantised into padded images, whose windows are unfolded panel by
// panel.
#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <string>

#include "product.h"

namespace mpq {
namespace {

// The quantised input: fours of channels, each an image with its padding, four codes a pixel.
struct Image {
  Image(const PackedWeight& packed, const float* values, int64_t images, int64_t rows,
        int64_t columns)
      : weight(packed),
        conv(packed.layer().conv),
        x(values),
        batch(images),
        height(rows),
        width(columns) {
    padded_height = height + conv.pads[0] + conv.pads[2];
    padded_width = width + conv.pads[1] + conv.pads[3];
    quads = conv.group * weight.group_quads();
    // Unfolding may read a line's worth beyond the last pixel that is used.
    codes = thread_scratch().codes.reserve<uint8_t>(batch * quads * plane() + kLineBytes);
  }

  int64_t plane() const { return padded_height * padded_width * 4; }
  uint8_t* at(int64_t n, int64_t quad) const { return codes + (n * quads + quad) * plane(); }

  // Quantises four channels of one image and surrounds them with the zero point.
  void quantize(int64_t index, const ActivationStep& step) const {
    const int64_t n = index / quads, quad = index % quads, per_group = weight.group_quads();
    const int64_t group = quad / per_group, first = quad % per_group * 4;
    const int64_t channels = weight.group_channels() * conv.group;
    const float* source[4] = {};
    float factor[4] = {};
    uint8_t shift[4] = {};
    uint8_t padding[4] = {};
    const auto zero_point = static_cast<uint8_t>(step.zero_point);
    for (int64_t i = 0; i < std::min<int64_t>(4, weight.group_channels() - first); ++i) {
      const int64_t channel = group * weight.group_channels() + first + i;
      source[i] = x + (n * channels + channel) * height * width;
      factor[i] = weight.layer().input_factor.data[channel];
      shift[i] = weight.input_shift()[channel];
      padding[i] = static_cast<uint8_t>((zero_point << shift[i]) ^ weight.kernels().flip);
    }
    const Kernels& kernels = weight.kernels();
    uint8_t* out = at(n, quad);
    if (padded_height == height && padded_width == width)
      return kernels.quantize_channels(source, factor, shift, step, height * width, out);
    out = fill(out, padding, conv.pads[0] * padded_width);
    for (int64_t row = 0; row < height; ++row) {
      out = fill(out, padding, conv.pads[1]);
      kernels.quantize_channels(source, factor, shift, step, width, out);
      for (const float*& channel : source)
        if (channel != nullptr) channel += width;
      out = fill(out + 4 * width, padding, conv.pads[3]);
    }
    fill(out, padding, conv.pads[2] * padded_width);
  }

  const PackedWeight& weight;
  const Geometry& conv;
  const float* x;
  int64_t batch, height, width, padded_height, padded_width, quads;
  uint8_t* codes;

 private:
  static uint8_t* fill(uint8_t* out, const uint8_t pixel[4], int64_t count) {
    for (int64_t i = 0; i < count; ++i, out += 4) std::memcpy(out, pixel, 4);
    return out;
  }
};

// Where the sixteen windows of a group of output pixels begin in a plane of the image.
struct Windows {
  int64_t image;
  int32_t pixels[kPixels];  // places of pixels in the plane
  bool adjacent;            // one after another, so that a line is one copy
};

class Unfolding {
 public:
  Unfolding(const Image& image, std::array<int64_t, 2> output_size)
      : image_(image),
        output_size_(output_size),
        groups_per_image_(divided_up(output_size[0] * output_size[1], kPixels)) {}

  int64_t groups() const { return image_.batch * groups_per_image_; }

  // Output pixels of a group: the first, and how many.
  std::array<int64_t, 2> pixels(int64_t group) const {
    const int64_t first = group % groups_per_image_ * kPixels;
    return {first, std::min(kPixels, output_size_[0] * output_size_[1] - first)};
  }
  int64_t image_of(int64_t group) const { return group / groups_per_image_; }

  // Lines of `count` groups from `first`, of the channels of one group of the convolution.
  void operator()(int64_t conv_group, int64_t first, int64_t count, uint8_t* panel) const {
    const PackedWeight& weight = image_.weight;
    const int64_t group_bytes = weight.blocks() * kBlockLines * kLineBytes;
    const int64_t quads = weight.group_quads(), used = weight.taps() * quads;
    constexpr int64_t kBatch = 64;
    Windows windows[kBatch];
    for (int64_t done = 0; done < count; done += kBatch) {
      const int64_t batch = std::min(kBatch, count - done);
      uint8_t* lines = panel + done * group_bytes;
      for (int64_t g = 0; g < batch; ++g) {
        windows[g] = windows_of(first + done + g);
        std::memset(lines + g * group_bytes + used * kLineBytes, 0,
                    static_cast<std::size_t>(group_bytes - used * kLineBytes));
      }
      for (int64_t quad = 0; quad < quads; ++quad)
        for (int64_t g = 0; g < batch; ++g)
          copy_taps(windows[g], image_.at(windows[g].image, conv_group * quads + quad), quads,
                    lines + g * group_bytes + quad * kLineBytes);
    }
  }

 private:
  Windows windows_of(int64_t group) const {
    const Geometry& conv = image_.conv;
    const auto [first, count] = pixels(group);
    Windows windows;
    windows.image = image_of(group);
    windows.adjacent = true;
    for (int64_t i = 0; i < kPixels; ++i) {
      const int64_t pixel = first + std::min(i, count - 1);
      const int64_t row = pixel / output_size_[1], column = pixel % output_size_[1];
      windows.pixels[i] = static_cast<int32_t>(row * conv.strides[0] * image_.padded_width +
                                               column * conv.strides[1]);
      if (i < count) windows.adjacent &= windows.pixels[i] == windows.pixels[0] + i;
    }
    return windows;
  }

  void copy_taps(const Windows& windows, const uint8_t* plane, int64_t quads, uint8_t* line) const {
    const Geometry& conv = image_.conv;
    for (int64_t row = 0; row < conv.kernel_shape[0]; ++row) {
      for (int64_t column = 0; column < conv.kernel_shape[1];
           ++column, line += quads * kLineBytes) {
        const uint8_t* tap = plane + 4 * (row * conv.dilations[0] * image_.padded_width +
                                          column * conv.dilations[1]);
        if (windows.adjacent) {
          std::memcpy(line, tap + 4 * windows.pixels[0], kLineBytes);
        } else {
          for (int64_t i = 0; i < kPixels; ++i)
            std::memcpy(line + 4 * i, tap + 4 * int64_t{windows.pixels[i]}, 4);
        }
      }
    }
  }

  const Image& image_;
  std::array<int64_t, 2> output_size_;
  int64_t groups_per_image_;
};

}  // namespace

std::array<int64_t, 2> Layer::output_size(int64_t height, int64_t width) const {
  const Geometry& conv = weight_->layer().conv;
  const std::array<int64_t, 2> padded = {height + conv.pads[0] + conv.pads[2],
                                         width + conv.pads[1] + conv.pads[3]};
  std::array<int64_t, 2> size{};
  for (int axis = 0; axis < 2; ++axis) {
    const int64_t reach = conv.dilations[axis] * (conv.kernel_shape[axis] - 1) + 1;
    if (height < 1 || width < 1 || padded[axis] < reach)
      throw ContractError("an input of " + std::to_string(height) + " x " + std::to_string(width) +
                          " is smaller than the kernel");
    size[axis] = (padded[axis] - reach) / conv.strides[axis] + 1;
  }
  if (padded[0] > std::numeric_limits<int32_t>::max() / 4 / padded[1])
    throw ContractError("an input of " + std::to_string(height) + " x " + std::to_string(width) +
                        " is too large");
  return size;
}

void Layer::conv(const float* x, int64_t batch, int64_t height, int64_t width, int32_t step,
                 float* y, Parallel& parallel) const {
  const PackedWeight& weight = *weight_;
  const std::array<int64_t, 2> size = output_size(height, width);
  const int64_t pixels = size[0] * size[1];
  if (batch == 0) return;
  const StepConstants constants(weight, step);
  const Image image(weight, x, batch, height, width);
  // Small images several to a piece.
  const int64_t planes = batch * image.quads;
  constexpr int64_t kPieceValues = int64_t{1} << 15;
  const int64_t per_piece = std::max<int64_t>(kPieceValues / (4 * height * width), 1);
  run_all(parallel, divided_up(planes, per_piece), [&](int64_t piece) {
    for (int64_t i = piece * per_piece; i < std::min((piece + 1) * per_piece, planes); ++i)
      image.quantize(i, constants.activation);
  });

  const Unfolding unfolding(image, size);
  const Partition partition(unfolding.groups(), weight.group_rows(), weight.blocks(),
                            divided_up(parallel.threads(), weight.groups()));
  run_all(parallel, weight.groups() * partition.pieces(), [&](int64_t index) {
    const int64_t conv_group = index / partition.pieces();
    multiply_piece(
        weight, partition, index % partition.pieces(), conv_group * weight.group_rows(),
        weight.group_rows(), constants,
        [&](int64_t first, int64_t count, uint8_t* panel) {
          unfolding(conv_group, first, count, panel);
        },
        [&](int64_t group) {
          const auto [first, count] = unfolding.pixels(group);
          return GroupOutput{y + unfolding.image_of(group) * weight.rows() * pixels + first, pixels,
                             count};
        });
  });
}

}  // namespace mpq
