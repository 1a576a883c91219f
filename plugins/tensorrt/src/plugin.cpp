#include "plugin.h"

#include <array>
#include <cstdint>

#include "guarded.h"
#include "launches.h"

namespace mpq::trt {
namespace {

using nvinfer1::DataType;
using nvinfer1::TensorFormat;

constexpr int32_t kRefused = -1;
// More than there is: TensorRT gives up on such a layer, where it would take 0 for enough.
constexpr size_t kNoWorkspace = PTRDIFF_MAX;

Type type_of(DataType type) {
  switch (type) {
    case DataType::kFLOAT:
      return Type::kFloat32;
    case DataType::kHALF:
      return Type::kFloat16;
    case DataType::kINT32:
      return Type::kInt32;
    case DataType::kINT8:
      return Type::kInt8;
    default:
      return Type::kOther;
  }
}

Format format_of(TensorFormat format) {
  switch (format) {
    case TensorFormat::kLINEAR:
      return Format::kLinear;
    case TensorFormat::kHWC:
      return Format::kHwc;
    case TensorFormat::kHWC8:
      return Format::kHwc8;
    default:
      return Format::kOther;
  }
}

Tensor tensor_of(const nvinfer1::PluginTensorDesc& description) {
  return {type_of(description.type), format_of(description.format)};
}

Shape shape_of(const nvinfer1::Dims& dims) {
  Shape shape = {dims.nbDims, {}};
  for (int32_t i = 0; i < dims.nbDims && i < kMaxRank; ++i) shape.sides[i] = dims.d[i];
  return shape;
}

nvinfer1::PluginFieldType type_of(FieldType type) {
  return type == FieldType::kInt32 ? nvinfer1::PluginFieldType::kINT32
                                   : nvinfer1::PluginFieldType::kCHAR;
}

using Shapes = std::array<Shape, kInputs + 1>;

// Every input's shape, as `shape_of_one` reads its description.
template <typename Description, typename ShapeOf>
Shapes shapes_of(const PluginLayer& layer, const Description* inputs, int32_t count,
                 ShapeOf shape_of_one) {
  if (count > kInputs + 1) throw Refused(layer.node, "it has too many inputs");
  Shapes shapes;
  for (int32_t i = 0; i < count; ++i) shapes[i] = shape_of_one(inputs[i]);
  return shapes;
}

}  // namespace

Plugin::Plugin(PluginLayer layer) : layer_(std::move(layer)), engine_fields_(layer_) {
  for (const Field& field : engine_fields_.fields()) {
    kept_.emplace_back(field.name, field.data, type_of(field.type), field.length);
  }
  collection_ = {static_cast<int32_t>(kept_.size()), kept_.data()};
  timing_cache_id_ = engine_fields_.text();
}

nvinfer1::IPluginCapability* Plugin::getCapabilityInterface(
    nvinfer1::PluginCapabilityType type) noexcept {
  switch (type) {
    case nvinfer1::PluginCapabilityType::kCORE:
      return static_cast<nvinfer1::IPluginV3OneCore*>(this);
    case nvinfer1::PluginCapabilityType::kBUILD:
      return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
    case nvinfer1::PluginCapabilityType::kRUNTIME:
      return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
  }
  return nullptr;
}

nvinfer1::IPluginV3* Plugin::clone() noexcept {
  return guarded<nvinfer1::IPluginV3*>(nullptr, [&] {
    auto* copy = new Plugin(layer_);
    copy->residual_ = residual_;
    return copy;
  });
}

const char* Plugin::getPluginName() const noexcept { return name_of(layer_.op); }

const char* Plugin::getPluginVersion() const noexcept { return kVersion; }

const char* Plugin::getPluginNamespace() const noexcept { return kNamespace; }

int32_t Plugin::getNbOutputs() const noexcept { return 1; }

int32_t Plugin::getOutputDataTypes(DataType* outputs, int32_t, const DataType* inputs,
                                   int32_t) const noexcept {
  outputs[0] = inputs[0];
  return 0;
}

int32_t Plugin::getOutputShapes(const nvinfer1::DimsExprs* inputs, int32_t,
                                const nvinfer1::DimsExprs*, int32_t, nvinfer1::DimsExprs* outputs,
                                int32_t, nvinfer1::IExprBuilder& expressions) noexcept {
  using nvinfer1::DimensionOperation;
  return guarded(kRefused, [&] {
    const auto whole = [&](const auto* size, int32_t extra, int32_t stride) {
      const auto* sum = expressions.operation(DimensionOperation::kSUM, *size,
                                              *expressions.constant(extra + stride));
      return expressions.operation(DimensionOperation::kFLOOR_DIV, *sum,
                                   *expressions.constant(stride));
    };
    check_rank(layer_, inputs[0].nbDims);
    outputs[0].nbDims = inputs[0].nbDims;
    set_output_shape(layer_, inputs[0].d, inputs[0].nbDims, whole,
                     expressions.constant(layer_.kernel.rows), outputs[0].d);
    return 0;
  });
}

bool Plugin::supportsFormatCombination(int32_t position,
                                       const nvinfer1::DynamicPluginTensorDesc* tensors,
                                       int32_t input_count, int32_t) noexcept {
  if (position < 0 || position > kInputs + 1) return false;
  std::array<Tensor, kInputs + 2> known;
  for (int32_t i = 0; i <= position; ++i) known[i] = tensor_of(tensors[i].desc);
  return takes(layer_, known.data(), position, input_count);
}

int32_t Plugin::configurePlugin(const nvinfer1::DynamicPluginTensorDesc* inputs,
                                int32_t input_count, const nvinfer1::DynamicPluginTensorDesc*,
                                int32_t) noexcept {
  return guarded(kRefused, [&] {
    const Shapes largest = shapes_of(layer_, inputs, input_count,
                                     [](const auto& input) { return shape_of(input.max); });
    check_largest(layer_, largest.data(), input_count, tensor_of(inputs[0].desc));
    residual_ = input_count > kInputs;
    return 0;
  });
}

size_t Plugin::getWorkspaceSize(const nvinfer1::DynamicPluginTensorDesc* inputs, int32_t,
                                const nvinfer1::DynamicPluginTensorDesc*, int32_t) const noexcept {
  return guarded(kNoWorkspace, [&] {
    return workspace_bytes(layer_, shape_of(inputs[0].max), tensor_of(inputs[0].desc));
  });
}

const char* Plugin::getTimingCacheID() noexcept { return timing_cache_id_.c_str(); }

int32_t Plugin::onShapeChange(const nvinfer1::PluginTensorDesc* inputs, int32_t input_count,
                              const nvinfer1::PluginTensorDesc*, int32_t) noexcept {
  return guarded(kRefused, [&] {
    const Shapes now = shapes_of(layer_, inputs, input_count,
                                 [](const auto& input) { return shape_of(input.dims); });
    check_inputs(layer_, now.data(), input_count);
    residual_ = input_count > kInputs;
    return 0;
  });
}

int32_t Plugin::enqueue(const nvinfer1::PluginTensorDesc* input_descriptions,
                        const nvinfer1::PluginTensorDesc*, const void* const* inputs,
                        void* const* outputs, void* workspace, cudaStream_t stream) noexcept {
  Failure failure;
  const nvinfer1::PluginTensorDesc& x = input_descriptions[0];
  if (mpq::trt::enqueue(layer_, shape_of(x.dims), tensor_of(x),
                        {inputs, residual_, outputs[0], workspace, stream}, failure)) {
    return 0;
  }
  log_error(failure.text);
  return failure.status;
}

nvinfer1::IPluginV3* Plugin::attachToContext(nvinfer1::IPluginResourceContext*) noexcept {
  return clone();
}

const nvinfer1::PluginFieldCollection* Plugin::getFieldsToSerialize() noexcept {
  return &collection_;
}

}  // namespace mpq::trt
