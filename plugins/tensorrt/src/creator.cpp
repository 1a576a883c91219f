#include "creator.h"

#include "device.h"
#include "guarded.h"
#include "plugin.h"

namespace mpq::trt {
namespace {

FieldType type_of(nvinfer1::PluginFieldType type) {
  switch (type) {
    case nvinfer1::PluginFieldType::kINT32:
      return FieldType::kInt32;
    case nvinfer1::PluginFieldType::kCHAR:
    case nvinfer1::PluginFieldType::kINT8:
      return FieldType::kChars;
    default:
      return FieldType::kOther;
  }
}

}  // namespace

Creator::Creator(Operator op) : op_(op) {
  for (const char* name : field_names(op)) wanted_.emplace_back(name);
  collection_ = {static_cast<int32_t>(wanted_.size()), wanted_.data()};
}

nvinfer1::IPluginV3* Creator::createPlugin(const char* name,
                                           const nvinfer1::PluginFieldCollection* fields,
                                           nvinfer1::TensorRTPhase) noexcept {
  return guarded<nvinfer1::IPluginV3*>(nullptr, [&] {
    std::vector<Field> given;
    for (int32_t i = 0; fields != nullptr && i < fields->nbFields; ++i) {
      const nvinfer1::PluginField& one = fields->fields[i];
      given.push_back({one.name, one.data, type_of(one.type), one.length});
    }
    const std::string node = name == nullptr ? "" : name;
    return new Plugin(read_fields(op_, node, given.data(), static_cast<int32_t>(given.size()),
                                  current_multiprocessors()));
  });
}

const nvinfer1::PluginFieldCollection* Creator::getFieldNames() noexcept { return &collection_; }

const char* Creator::getPluginName() const noexcept { return name_of(op_); }

const char* Creator::getPluginVersion() const noexcept { return kVersion; }

const char* Creator::getPluginNamespace() const noexcept { return kNamespace; }

}  // namespace mpq::trt
