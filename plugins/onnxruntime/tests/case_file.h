// Cases as tests/plugins/onnxruntime/case_file.py writes them: layers, inputs, expected outputs.
//
// Little-endian. "MPQCASES", int64 count, then per case: name; is_conv; 11 int64 of geometry
// (kernel_shape, strides, pads, dilations, group); act_bits; K; step; then the arrays plane_rows
// (int64), act_scale, act_zero_point, planes, steps, scale, row_order, bias, input_factor,
// input_shift, x, residual, y. A residual without values is none. A name is its length (int64) and
// bytes; an array its rank and dimensions (int64) and data. Every part begins at a multiple of 8
// bytes.
#pragma once

#include <cstring>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

#include "description.h"

namespace mpq {

struct Case {
  std::string name;
  LayerDescription layer;
  int32_t step = 0;
  Tensor<float> x, residual, y;
};

class CaseFile {
 public:
  // The cases point into the file, which must outlive them.
  explicit CaseFile(const char* path) : bytes_(read(path)) {
    if (text(8) != "MPQCASES") throw std::runtime_error(std::string(path) + " holds no cases");
    const int64_t count = number();
    for (int64_t i = 0; i < count; ++i) cases_.push_back(one());
  }

  const std::vector<Case>& cases() const { return cases_; }

 private:
  static std::vector<char> read(const char* path) {
    std::ifstream stream(path, std::ios::binary);
    if (!stream) throw std::runtime_error(std::string(path) + " cannot be read");
    return {std::istreambuf_iterator<char>(stream), {}};
  }

  const char* take(int64_t size) {
    const int64_t padded = (size + 7) / 8 * 8;
    if (size < 0 || padded > static_cast<int64_t>(bytes_.size()) - position_) {
      throw std::runtime_error("the file of cases ends too early");
    }
    const char* begin = bytes_.data() + position_;
    position_ += padded;
    return begin;
  }

  int64_t number() {
    int64_t value;
    std::memcpy(&value, take(8), 8);
    return value;
  }

  std::string text(int64_t size) { return {take(size), static_cast<std::size_t>(size)}; }

  template <typename T>
  Tensor<T> tensor() {
    Tensor<T> result;
    int64_t size = sizeof(T);
    const int64_t rank = number();
    for (int64_t i = 0; i < rank; ++i) {
      result.shape.push_back(number());
      size *= result.shape.back();
    }
    result.data = reinterpret_cast<const T*>(take(size));
    return result;
  }

  Case one() {
    Case read;
    LayerDescription& layer = read.layer;
    read.name = text(number());
    layer.is_conv = number() != 0;
    for (auto* list : {&layer.conv.kernel_shape, &layer.conv.strides}) {
      for (int64_t& value : *list) value = number();
    }
    for (int64_t& value : layer.conv.pads) value = number();
    for (int64_t& value : layer.conv.dilations) value = number();
    layer.conv.group = number();
    layer.act_bits = number();
    layer.columns = number();
    read.step = static_cast<int32_t>(number());
    const Tensor<int64_t> plane_rows = tensor<int64_t>();
    layer.plane_rows.assign(plane_rows.data, plane_rows.data + plane_rows.shape.at(0));
    layer.act_scale = tensor<float>();
    layer.act_zero_point = tensor<int32_t>();
    layer.planes = tensor<int32_t>();
    layer.steps = tensor<int8_t>();
    layer.scale = tensor<float>();
    layer.row_order = tensor<int32_t>();
    layer.bias = tensor<float>();
    layer.input_factor = tensor<float>();
    layer.input_shift = tensor<int8_t>();
    read.x = tensor<float>();
    read.residual = tensor<float>();
    read.y = tensor<float>();
    return read;
  }

  std::vector<char> bytes_;
  int64_t position_ = 0;
  std::vector<Case> cases_;
};

}  // namespace mpq
