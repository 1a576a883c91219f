// Makes plugins of an ONNX node's fields, or of an engine's.
#pragma once

#include "fields.h"
#include "nv_infer.h"

namespace mpq::trt {

class Creator final : public nvinfer1::IPluginCreatorV3One {
 public:
  explicit Creator(Operator op);

  nvinfer1::IPluginV3* createPlugin(const char* name, const nvinfer1::PluginFieldCollection* fields,
                                    nvinfer1::TensorRTPhase phase) noexcept override;
  const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override;
  const char* getPluginName() const noexcept override;
  const char* getPluginVersion() const noexcept override;
  const char* getPluginNamespace() const noexcept override;

 private:
  Operator op_;
  std::vector<nvinfer1::PluginField> wanted_;
  nvinfer1::PluginFieldCollection collection_;
};

}  // namespace mpq::trt
