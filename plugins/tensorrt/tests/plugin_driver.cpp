// As TensorRT calls a plugin library, by its version 3 interface alone.
#include <dlfcn.h>

#include <deque>

#include "../src/nv_infer.h"
#include "driver.h"

using namespace mpq::trt;
using nvinfer1::DimensionOperation;
using nvinfer1::IDimensionExpr;

namespace {

std::string said;

class Logger : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const char* text) noexcept override {
    if (severity <= Severity::kERROR) said = text;
  }
} logger;

class Finder : public nvinfer1::ILoggerFinder {
 public:
  virtual ~Finder() = default;
  nvinfer1::ILogger* findLogger() override { return &logger; }
} finder;

// A size, in the place of an expression of sizes.
class Number : public IDimensionExpr, private nvinfer1::apiv::VDimensionExpr {
 public:
  explicit Number(int64_t value) : value_(value) { mImpl = this; }
  bool isConstant() const override { return true; }
  int64_t getConstantValue() const override { return value_; }
  bool isSizeTensor() const override { return false; }

 private:
  int64_t value_;
};

class Expressions : public nvinfer1::IExprBuilder, private nvinfer1::apiv::VExprBuilder {
 public:
  Expressions() { mImpl = this; }

  const IDimensionExpr* constant(int64_t value) override { return &numbers_.emplace_back(value); }

  const IDimensionExpr* operation(DimensionOperation op, const IDimensionExpr& first,
                                  const IDimensionExpr& second) override {
    const int64_t a = first.getConstantValue(), b = second.getConstantValue();
    if (op == DimensionOperation::kSUM) return constant(a + b);
    return op == DimensionOperation::kFLOOR_DIV ? constant(a / b) : nullptr;
  }

  const IDimensionExpr* declareSizeTensor(int32_t, const IDimensionExpr&,
                                          const IDimensionExpr&) override {
    return nullptr;
  }

 private:
  std::deque<Number> numbers_;
};

template <typename Capability>
Capability& capability(void* plugin, nvinfer1::PluginCapabilityType type) {
  return *static_cast<Capability*>(
      static_cast<nvinfer1::IPluginV3*>(plugin)->getCapabilityInterface(type));
}

nvinfer1::IPluginV3OneBuild& build_of(void* plugin) {
  return capability<nvinfer1::IPluginV3OneBuild>(plugin, nvinfer1::PluginCapabilityType::kBUILD);
}

nvinfer1::IPluginV3OneRuntime& runtime_of(void* plugin) {
  return capability<nvinfer1::IPluginV3OneRuntime>(plugin,
                                                   nvinfer1::PluginCapabilityType::kRUNTIME);
}

constexpr nvinfer1::DataType kTypes[] = {nvinfer1::DataType::kFLOAT, nvinfer1::DataType::kHALF,
                                         nvinfer1::DataType::kINT32, nvinfer1::DataType::kINT8,
                                         nvinfer1::DataType::kBOOL};
constexpr nvinfer1::TensorFormat kFormats[] = {
    nvinfer1::TensorFormat::kLINEAR, nvinfer1::TensorFormat::kHWC, nvinfer1::TensorFormat::kHWC8,
    nvinfer1::TensorFormat::kCHW32};
constexpr nvinfer1::PluginFieldType kFieldTypes[] = {nvinfer1::PluginFieldType::kINT32,
                                                     nvinfer1::PluginFieldType::kCHAR,
                                                     nvinfer1::PluginFieldType::kFLOAT32};

nvinfer1::Dims dims_of(const Shape& shape) {
  nvinfer1::Dims dims = {shape.rank, {}};
  for (int32_t i = 0; i < shape.rank; ++i) dims.d[i] = shape.sides[i];
  return dims;
}

nvinfer1::PluginTensorDesc described(const Shape& shape, const Tensor& tensor) {
  return {dims_of(shape), kTypes[static_cast<int>(tensor.type)],
          kFormats[static_cast<int>(tensor.format)], 1.0f};
}

nvinfer1::DynamicPluginTensorDesc dynamic(const Shape& shape, const Tensor& tensor) {
  const nvinfer1::Dims dims = dims_of(shape);
  return {described(shape, tensor), dims, dims, dims};
}

nvinfer1::IPluginCreatorInterface* const* creators = nullptr;

}  // namespace

int driver_load(const char* path) {
  void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    said = dlerror();
    return 0;
  }
  auto* set_finder =
      reinterpret_cast<void (*)(nvinfer1::ILoggerFinder*)>(dlsym(library, "setLoggerFinder"));
  auto* get_creators = reinterpret_cast<nvinfer1::IPluginCreatorInterface* const* (*)(int32_t&)>(
      dlsym(library, "getCreators"));
  if (set_finder == nullptr || get_creators == nullptr) return 0;
  set_finder(&finder);
  int32_t count = 0;
  creators = get_creators(count);
  return count == 2;
}

void* driver_create(int conv, const char* node, const Field* fields, int count, int from_engine) {
  auto* creator = static_cast<nvinfer1::IPluginCreatorV3One*>(creators[conv]);
  std::vector<nvinfer1::PluginField> given;
  for (int i = 0; i < count; ++i) {
    given.emplace_back(fields[i].name, fields[i].data,
                       kFieldTypes[static_cast<int>(fields[i].type)], fields[i].length);
  }
  const nvinfer1::PluginFieldCollection collection = {count, given.data()};
  return creator->createPlugin(
      node, &collection,
      from_engine != 0 ? nvinfer1::TensorRTPhase::kRUNTIME : nvinfer1::TensorRTPhase::kBUILD);
}

void* driver_clone(void* plugin) { return static_cast<nvinfer1::IPluginV3*>(plugin)->clone(); }

void driver_free(void* plugin) { delete static_cast<nvinfer1::IPluginV3*>(plugin); }

const char* driver_said() { return said.c_str(); }

int driver_fields(void* plugin, Field* fields, int most) {
  const nvinfer1::PluginFieldCollection* kept = runtime_of(plugin).getFieldsToSerialize();
  if (kept->nbFields > most) return 0;
  for (int i = 0; i < kept->nbFields; ++i) {
    const nvinfer1::PluginField& one = kept->fields[i];
    const bool numbers = one.type == nvinfer1::PluginFieldType::kINT32;
    fields[i] = {one.name, one.data, numbers ? FieldType::kInt32 : FieldType::kChars, one.length};
  }
  return kept->nbFields;
}

int driver_output_shape(void* plugin, const Shape* x, Shape* y) {
  Expressions expressions;
  nvinfer1::DimsExprs in = {x->rank, {}}, out = {};
  for (int32_t i = 0; i < x->rank; ++i) {
    in.d[i] = static_cast<nvinfer1::IExprBuilder&>(expressions).constant(x->sides[i]);
  }
  if (build_of(plugin).getOutputShapes(&in, 1, nullptr, 0, &out, 1, expressions) != 0) return 0;
  y->rank = out.nbDims;
  for (int32_t i = 0; i < out.nbDims; ++i) y->sides[i] = out.d[i]->getConstantValue();
  return 1;
}

int driver_takes(void* plugin, const Tensor* tensors, int position, int inputs) {
  std::vector<nvinfer1::DynamicPluginTensorDesc> all;
  for (int i = 0; i <= inputs; ++i) {
    all.push_back(dynamic({0, {}}, i <= position ? tensors[i] : Tensor{}));
  }
  return build_of(plugin).supportsFormatCombination(position, all.data(), inputs, 1);
}

int driver_configure(void* plugin, const Shape* inputs, int count, int running) {
  std::vector<nvinfer1::DynamicPluginTensorDesc> all;
  std::vector<nvinfer1::PluginTensorDesc> now;
  for (int i = 0; i < count; ++i) {
    all.push_back(dynamic(inputs[i], {}));
    now.push_back(described(inputs[i], {}));
  }
  const nvinfer1::DynamicPluginTensorDesc out = {};
  if (running == 0) {
    return build_of(plugin).configurePlugin(all.data(), count, &out, 1) == 0;
  }
  return runtime_of(plugin).onShapeChange(now.data(), count, &out.desc, 1) == 0;
}

size_t driver_workspace(void* plugin, const Shape* x, const Tensor* format) {
  const nvinfer1::DynamicPluginTensorDesc in = dynamic(*x, *format);
  const size_t size = build_of(plugin).getWorkspaceSize(&in, 1, &in, 1);
  if (size == 0) return 1;  // TensorRT would take it for enough
  return size < size_t{1} << 40 ? size : 0;
}

int driver_enqueue(void* plugin, const Shape* x, const Tensor* format, const void* const* inputs,
                   int, void* y, void* workspace) {
  const nvinfer1::PluginTensorDesc in = described(*x, *format);
  return runtime_of(plugin).enqueue(&in, &in, inputs, &y, workspace, nullptr) == 0;
}
