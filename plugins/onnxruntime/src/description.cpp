#include "description.h"

#include <cmath>
#include <limits>
#include <string>

namespace mpq {
namespace {

constexpr int64_t kLimit = 127, kMaxPlanes = 8, kMaxExtent = 4096, kWordBits = 32;
constexpr int64_t kMaxColumns = std::numeric_limits<int32_t>::max() / (255 * kLimit);
constexpr int64_t kMaxRows = std::numeric_limits<int32_t>::max();

void require(bool holds, const std::string& otherwise) {
  if (!holds) throw ContractError(otherwise);
}

std::string text(const std::vector<int64_t>& shape) {
  std::string result = "[";
  for (std::size_t i = 0; i < shape.size(); ++i)
    result += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  return result + "]";
}

template <typename T>
void require_shape(const char* name, const Tensor<T>& tensor, const std::vector<int64_t>& shape) {
  require(tensor.data != nullptr && tensor.shape == shape,
          std::string(name) + " is " + text(tensor.shape) + ", expected " + text(shape));
}

void require_normal(const char* name, const Tensor<float>& tensor, int64_t size) {
  for (int64_t i = 0; i < size; ++i)
    require(std::isnormal(tensor.data[i]) && tensor.data[i] > 0,
            std::string(name) + " has a value that is not a normal positive float32");
}

void check_geometry(const Geometry& conv, int64_t rows, const std::vector<int64_t>& plane_rows) {
  for (int axis = 0; axis < 2; ++axis)
    for (int64_t value : {conv.kernel_shape[axis], conv.strides[axis], conv.dilations[axis]})
      require(1 <= value && value <= kMaxExtent,
              "kernel, strides and dilations are 1 to " + std::to_string(kMaxExtent));
  for (int64_t pad : conv.pads)
    require(0 <= pad && pad <= kMaxExtent, "pads are 0 to " + std::to_string(kMaxExtent));
  require(conv.group >= 1, "group is at least 1");
  if (conv.group > 1) {
    require(rows % conv.group == 0, std::to_string(rows) + " rows do not divide into " +
                                        std::to_string(conv.group) + " groups");
    require(plane_rows.back() == rows,
            "rows of a grouped convolution must have equal plane counts");
  }
}

// The rows in order, each once; those of equal plane count in their original order.
void check_row_order(const LayerDescription& layer, int64_t rows) {
  std::vector<bool> seen(static_cast<std::size_t>(rows), false);
  const int32_t* order = layer.row_order.data;
  for (int64_t j = 0; j < rows; ++j) {
    require(0 <= order[j] && order[j] < rows && !seen[static_cast<std::size_t>(order[j])],
            "row_order is no permutation");
    seen[static_cast<std::size_t>(order[j])] = true;
    bool class_begins = j == 0;
    for (int64_t count : layer.plane_rows) class_begins |= count == j;
    require(class_begins || order[j - 1] < order[j],
            "rows of equal plane count are not in original order");
  }
}

void check_steps(const LayerDescription& layer, int64_t rows) {
  for (int64_t j = 0; j < rows; ++j) {
    const int64_t offset = layer.steps.data[j];
    require(offset >= -kLimit, "an offset is below -" + std::to_string(kLimit));
    int64_t top = offset;
    for (std::size_t p = 0; p < layer.plane_rows.size(); ++p) {
      const int64_t step = layer.steps.data[(static_cast<int64_t>(p) + 1) * rows + j];
      require(step >= 0, "a step is negative");
      require(step == 0 || j < layer.plane_rows[p],
              "a step beyond the row's plane count is not zero");
      top += step;
    }
    require(top <= kLimit, "a row can exceed " + std::to_string(kLimit));
  }
}

void check_planes(const LayerDescription& layer, int64_t rows) {
  int64_t stored = 0;
  for (std::size_t p = 0; p < layer.plane_rows.size(); ++p) {
    const int64_t above = p == 0 ? rows : layer.plane_rows[p - 1];
    require(1 <= layer.plane_rows[p] && layer.plane_rows[p] <= above,
            "plane_rows must not increase, and the last plane must have rows");
    stored += layer.plane_rows[p];
  }
  require(layer.plane_rows[0] == rows, "plane 0 must be there for every row");
  const int64_t words = (layer.columns + kWordBits - 1) / kWordBits;
  require_shape("planes", layer.planes, {stored, words});
  const int64_t used = layer.columns - (words - 1) * kWordBits;
  if (used == kWordBits) return;
  for (int64_t row = 0; row < stored; ++row) {
    const auto last = static_cast<uint32_t>(layer.planes.data[(row + 1) * words - 1]);
    require((last >> used) == 0, "a padding bit is set");
  }
}

}  // namespace

int64_t input_channels(const LayerDescription& layer) {
  return layer.columns / (layer.conv.kernel_shape[0] * layer.conv.kernel_shape[1]) *
         layer.conv.group;
}

void check(const LayerDescription& layer) {
  const auto planes = static_cast<int64_t>(layer.plane_rows.size());
  require(1 <= layer.columns && layer.columns <= kMaxColumns,
          std::to_string(layer.columns) + " columns; 1 to " + std::to_string(kMaxColumns) +
              " are allowed");
  require(1 <= planes && planes <= kMaxPlanes,
          std::to_string(planes) + " planes; 1 to " + std::to_string(kMaxPlanes) + " are allowed");
  require(layer.row_order.shape.size() == 1 && 1 <= layer.row_order.shape[0] &&
              layer.row_order.shape[0] <= kMaxRows,
          "row_order is " + text(layer.row_order.shape) + ", expected one row or more");
  const int64_t rows = layer.row_order.shape[0];
  require_shape("row_order", layer.row_order, {rows});
  require_shape("scale", layer.scale, {rows});
  require_shape("bias", layer.bias, {rows});
  require_shape("steps", layer.steps, {1 + planes, rows});
  check_planes(layer, rows);
  check_geometry(layer.conv, rows, layer.plane_rows);
  check_row_order(layer, rows);
  check_steps(layer, rows);
  require_normal("scale", layer.scale, rows);
  for (int64_t j = 0; j < rows; ++j)
    require(std::isfinite(layer.bias.data[j]), "bias has a value that is not finite");

  const int64_t taps = layer.conv.kernel_shape[0] * layer.conv.kernel_shape[1];
  require(layer.columns % taps == 0, std::to_string(layer.columns) +
                                         " columns do not divide into " + std::to_string(taps) +
                                         " kernel taps");
  require(layer.act_bits >= 2 && layer.act_bits <= 8,
          std::to_string(layer.act_bits) + " activation bits; 2 to 8 are allowed");
  require(layer.act_scale.shape.size() == 1 && layer.act_scale.shape[0] >= 1,
          "the activation table is empty");
  const int64_t table = layer.act_scale.shape[0], channels = input_channels(layer);
  require_shape("act_scale", layer.act_scale, {table});
  require_shape("act_zero_point", layer.act_zero_point, {table});
  require_shape("input_factor", layer.input_factor, {channels});
  require_shape("input_shift", layer.input_shift, {channels});
  require_normal("act_scale", layer.act_scale, table);
  require_normal("input_factor", layer.input_factor, channels);
  for (int64_t t = 0; t < table; ++t)
    require(0 <= layer.act_zero_point.data[t] &&
                layer.act_zero_point.data[t] < (int64_t{1} << layer.act_bits),
            "a zero point is outside the activation codes");
  for (int64_t i = 0; i < channels; ++i)
    require(0 <= layer.input_shift.data[i] && layer.input_shift.data[i] + layer.act_bits <= 8,
            "an input shift is negative, or act_bits + shift exceeds 8");
}

}  // namespace mpq
