// What is added to a layer's outputs, once they have their bias.
#pragma once

#include <cstddef>
#include <cstdint>

namespace mpq {

// The shape of a tensor.
struct Extents {
  const int64_t* dims;
  std::size_t rank;
};

enum class ResidualForm {
  kEveryPixel,      // of y's shape
  kEveryChannel,    // of a convolution: [N, O, 1, 1]
  kSharedChannels,  // [1, O, 1, 1], the same for all images
};

// Throws ContractError on a shape of none of these forms.
ResidualForm residual_form(const Extents& residual, const Extents& y, bool is_conv);

struct Residual {
  const float* values = nullptr;  // null: nothing is added
  ResidualForm form = ResidualForm::kEveryPixel;
};

}  // namespace mpq
