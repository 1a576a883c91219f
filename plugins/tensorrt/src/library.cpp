// What TensorRT looks for in a plugin library, and all that this one shows.
#include "creator.h"
#include "logger.h"

#define MPQ_EXPORT extern "C" __attribute__((visibility("default")))

MPQ_EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) {
  static mpq::trt::Creator linear(mpq::trt::Operator::kLinear), conv(mpq::trt::Operator::kConv);
  static nvinfer1::IPluginCreatorInterface* const creators[] = {&linear, &conv};
  count = 2;
  return creators;
}

MPQ_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder* finder) {
  mpq::trt::set_logger_finder(finder);
}
