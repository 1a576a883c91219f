// A convolution: its input is quantised into padded images. Where sixteen output pixels read
// sixteen adjacent ones of them, products read the image as it is; else its windows are unfolded,
// panel by panel.
#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <string>

#include "product.h"

namespace mpq {
namespace {

// The quantised input: in each row of an image, padding included, fours of channels, in each of
// these the row's pixels, four codes a pixel. A window's rows lie close together.
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
    // A line may be read beyond the last pixel that is used.
    codes =
        thread_scratch().image.reserve<uint8_t>(batch * padded_height * row_bytes() + kLineBytes);
  }

  int64_t quad_bytes() const { return padded_width * 4; }
  int64_t row_bytes() const { return quads * quad_bytes(); }
  uint8_t* at(int64_t n, int64_t row, int64_t quad) const {
    return codes + (n * padded_height + row) * row_bytes() + quad * quad_bytes();
  }

  // Quantises four channels of one image and surrounds them with the zero point.
  void quantize(int64_t index, const ActivationStep& step) const {
    const int64_t n = index / quads, quad = index % quads, per_group = weight.group_quads();
    const int64_t group = quad / per_group, first = quad % per_group * 4;
    const int64_t channels = weight.group_channels() * conv.group;
    Quad values{};
    uint8_t padding[4] = {};
    const auto zero_point = static_cast<uint8_t>(step.zero_point);
    for (int64_t i = 0; i < std::min<int64_t>(4, weight.group_channels() - first); ++i) {
      const int64_t channel = group * weight.group_channels() + first + i;
      values.x[i] = x + (n * channels + channel) * height * width;
      values.factor[i] = weight.layer().input_factor.data[channel];
      values.shift[i] = weight.input_shift()[channel];
      padding[i] = static_cast<uint8_t>((zero_point << values.shift[i]) ^ weight.kernels().flip);
    }
    const int64_t top = conv.pads[0], left = conv.pads[1], right = conv.pads[3];
    for (int64_t row = 0; row < padded_height; ++row) {
      const bool inside = row >= top && row < top + height;
      fill(at(n, row, quad), padding, inside ? left : padded_width);
      if (inside) fill(at(n, row, quad) + 4 * (left + width), padding, right);
    }
    weight.kernels().quantize_quad(values, step, height, width, at(n, top, quad) + 4 * left,
                                   row_bytes());
  }

  const PackedWeight& weight;
  const Geometry& conv;
  const float* x;
  int64_t batch, height, width, padded_height, padded_width, quads;
  uint8_t* codes;

 private:
  static void fill(uint8_t* out, const uint8_t pixel[4], int64_t count) {
    for (int64_t i = 0; i < count; ++i) std::memcpy(out + 4 * i, pixel, 4);
  }
};

// Output pixels in groups of sixteen, which end with an image.
struct OutputGroups {
  OutputGroups(const Image& image, std::array<int64_t, 2> output_size)
      : width(output_size[1]),
        pixels(output_size[0] * output_size[1]),
        per_image(divided_up(pixels, kPixels)),
        count(image.batch * per_image) {}

  int64_t image_of(int64_t group) const { return group / per_image; }
  int64_t first_pixel(int64_t group) const { return group % per_image * kPixels; }
  int64_t pixels_of(int64_t group) const { return std::min(kPixels, pixels - first_pixel(group)); }

  int64_t width, pixels, per_image, count;
};

// Products read the image as it is: a line is sixteen adjacent pixels, a block lies in one tap.
class DirectInput {
 public:
  static bool fits(const PackedWeight& weight, const OutputGroups& groups) {
    return weight.layer().conv.strides[1] == 1 && groups.width % kPixels == 0 &&
           weight.group_channels() % kBlockColumns == 0;
  }

  DirectInput(const Image& image, const OutputGroups& groups)
      : image_(image),
        groups_(groups),
        offsets_(thread_scratch().blocks.reserve<int64_t>(image.weight.blocks())) {
    const Geometry& conv = image.conv;
    int64_t* offset = offsets_;
    for (int64_t row = 0; row < conv.kernel_shape[0]; ++row)
      for (int64_t column = 0; column < conv.kernel_shape[1]; ++column)
        for (int64_t quad = 0; quad < image.weight.group_quads(); quad += kBlockLines)
          *offset++ = row * conv.dilations[0] * image.row_bytes() + quad * image.quad_bytes() +
                      4 * column * conv.dilations[1];
  }

  const int64_t* blocks() const { return offsets_; }
  int64_t stride() const { return image_.quad_bytes(); }
  int64_t group_bytes() const { return image_.weight.group_quads() * kLineBytes; }
  static constexpr bool kUnfolded = false;

  auto prepare(int64_t conv_group, int64_t, int64_t) const {
    return [this, conv_group](int64_t group) {
      const int64_t pixel = groups_.first_pixel(group);
      const int64_t row = pixel / groups_.width * image_.conv.strides[0];
      return image_.at(groups_.image_of(group), row, conv_group * image_.weight.group_quads()) +
             4 * (pixel % groups_.width);
    };
  }

 private:
  const Image& image_;
  const OutputGroups& groups_;
  int64_t* offsets_;
};

// Windows of every kind, unfolded.
class UnfoldedInput {
 public:
  UnfoldedInput(const Image& image, const OutputGroups& groups)
      : image_(image), groups_(groups), blocks_(adjacent_blocks(image.weight)) {}

  const int64_t* blocks() const { return blocks_; }
  int64_t stride() const { return kLineBytes; }
  int64_t group_bytes() const { return image_.weight.blocks() * kBlockLines * kLineBytes; }
  static constexpr bool kUnfolded = true;

  auto prepare(int64_t conv_group, int64_t first, int64_t count) const {
    auto* panel = thread_scratch().panel.reserve<uint8_t>(count * group_bytes());
    for (int64_t g = 0; g < count; ++g) unfold(conv_group, first + g, panel + g * group_bytes());
    return [this, panel, first](int64_t group) { return panel + (group - first) * group_bytes(); };
  }

 private:
  void unfold(int64_t conv_group, int64_t group, uint8_t* line) const {
    const Geometry& conv = image_.conv;
    const int64_t quads = image_.weight.group_quads(), count = groups_.pixels_of(group);
    // Places of the sixteen windows' corners; the last one stands for those that are not there.
    int64_t corners[kPixels];
    bool adjacent = true;
    for (int64_t i = 0; i < kPixels; ++i) {
      const int64_t pixel = groups_.first_pixel(group) + std::min(i, count - 1);
      corners[i] = pixel / groups_.width * conv.strides[0] * image_.row_bytes() +
                   4 * (pixel % groups_.width * conv.strides[1]);
      if (i < count) adjacent &= corners[i] == corners[0] + 4 * i;
    }
    uint8_t* const end = line + group_bytes();
    const uint8_t* origin = image_.at(groups_.image_of(group), 0, conv_group * quads);
    for (int64_t row = 0; row < conv.kernel_shape[0]; ++row) {
      for (int64_t column = 0; column < conv.kernel_shape[1]; ++column) {
        const uint8_t* tap =
            origin + row * conv.dilations[0] * image_.row_bytes() + 4 * column * conv.dilations[1];
        for (int64_t quad = 0; quad < quads;
             ++quad, tap += image_.quad_bytes(), line += kLineBytes) {
          if (adjacent) {
            std::memcpy(line, tap + corners[0], kLineBytes);
          } else {
            for (int64_t i = 0; i < kPixels; ++i) std::memcpy(line + 4 * i, tap + corners[i], 4);
          }
        }
      }
    }
    std::memset(line, 0, static_cast<std::size_t>(end - line));
  }

  const Image& image_;
  const OutputGroups& groups_;
  const int64_t* blocks_;
};

// Sums to the planes of an image's output channels.
class ImageOutput {
 public:
  // One panel: its channels' pixels are then stored one group after another.
  static constexpr int64_t kUnpackedBytes = 0;

  ImageOutput(const PackedWeight& weight, const OutputGroups& groups, const Residual& residual,
              float* y)
      : weight_(weight), groups_(groups), residual_(residual), y_(y) {}

  void expect(int64_t group, int64_t row, int64_t rows) const {
    const bool adds = residual_.values != nullptr && residual_.form == ResidualForm::kEveryPixel;
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t first = at(group, row + r);
      fetch<true>(y_ + first, groups_.pixels_of(group));
      if (adds) fetch<false>(residual_.values + first, groups_.pixels_of(group));
    }
  }

  void store(int64_t group, int64_t row, int64_t rows, const int32_t* sums,
             const RowEpilogue& epilogue) const {
    weight_.kernels().finish(sums, epilogue, addends(group, row), rows, groups_.pixels_of(group),
                             y_ + at(group, row), groups_.pixels);
  }

 private:
  int64_t at(int64_t group, int64_t row) const {
    return (groups_.image_of(group) * weight_.rows() + row) * groups_.pixels +
           groups_.first_pixel(group);
  }

  Addends addends(int64_t group, int64_t row) const {
    if (residual_.values == nullptr) return {nullptr, false};
    switch (residual_.form) {
      case ResidualForm::kEveryPixel:
        return {residual_.values + at(group, row), true};
      case ResidualForm::kEveryChannel:
        return {residual_.values + groups_.image_of(group) * weight_.rows() + row, false};
      default:
        return {residual_.values + row, false};
    }
  }

  const PackedWeight& weight_;
  const OutputGroups& groups_;
  const Residual residual_;
  float* y_;
};

template <typename Input>
void multiply(const PackedWeight& weight, const OutputGroups& groups, const Input& input,
              const StepConstants& constants, const Residual& residual, float* y,
              Parallel& parallel) {
  const Partition partition(weight, groups.count, input.group_bytes(), Input::kUnfolded,
                            divided_up(parallel.threads(), weight.groups()));
  run_all(parallel, weight.groups() * partition.pieces(), [&](int64_t index) {
    const int64_t conv_group = index / partition.pieces(), rows = weight.group_rows();
    const Piece piece(partition, index % partition.pieces(), rows);
    multiply_piece(weight, piece, conv_group * rows, constants, input.blocks(), input.stride(),
                   input.prepare(conv_group, piece.first_group, piece.groups()),
                   ImageOutput(weight, groups, residual, y));
  });
}

}  // namespace

std::array<int64_t, 2> Layer::output_size(int64_t height, int64_t width) const {
  const Geometry& conv = weight_->layer().conv;
  const auto refuse = [&](const char* why) {
    throw ContractError("an input of " + std::to_string(height) + " x " + std::to_string(width) +
                        why);
  };
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max() / 4;
  if (height < 1 || width < 1) refuse(" has no pixels");
  if (height > kMost || width > kMost) refuse(" is too large");
  const std::array<int64_t, 2> padded = {height + conv.pads[0] + conv.pads[2],
                                         width + conv.pads[1] + conv.pads[3]};
  if (padded[0] > kMost / padded[1]) refuse(" is too large");
  std::array<int64_t, 2> size{};
  for (std::size_t axis = 0; axis < 2; ++axis) {
    const int64_t reach = conv.dilations[axis] * (conv.kernel_shape[axis] - 1) + 1;
    if (padded[axis] < reach) refuse(" is smaller than the kernel");
    size[axis] = (padded[axis] - reach) / conv.strides[axis] + 1;
  }
  return size;
}

void Layer::conv(const float* x, int64_t batch, int64_t height, int64_t width, int32_t step,
                 const Residual& residual, float* y, Parallel& parallel) const {
  const PackedWeight& weight = *weight_;
  const std::array<int64_t, 2> size = output_size(height, width);
  if (batch == 0) return;
  const IeeeArithmetic ieee;
  const StepConstants constants(weight, step);
  const Image image(weight, x, batch, height, width);
  run_in_pieces(parallel, batch * image.quads, 4 * height * width,
                [&](int64_t quad) { image.quantize(quad, constants.activation); });
  const OutputGroups groups(image, size);
  if (DirectInput::fits(weight, groups)) {
    multiply(weight, groups, DirectInput(image, groups), constants, residual, y, parallel);
  } else {
    multiply(weight, groups, UnfoldedInput(image, groups), constants, residual, y, parallel);
  }
}

}  // namespace mpq
