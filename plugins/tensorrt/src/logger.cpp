#include "logger.h"

#include <cxxabi.h>

#include <atomic>
#include <cstdio>
#include <typeinfo>

namespace mpq::trt {
namespace {

std::atomic<nvinfer1::ILoggerFinder*> finder{nullptr};

// Whether an object is of the class of the headers that this was compiled with, by its name in the
// library that made it. TensorRT 11 gave its loggers other functions, and another name.
bool is_ours(const nvinfer1::ILoggerFinder& given) {
  const auto& ours = static_cast<const abi::__class_type_info&>(typeid(nvinfer1::ILoggerFinder));
  const void* object = &given;
  return typeid(given).__do_upcast(&ours, const_cast<void**>(&object));
}

nvinfer1::ILogger* find_logger() noexcept {
  nvinfer1::ILoggerFinder* known = finder.load();
  if (known == nullptr) return nullptr;
  try {
    return known->findLogger();
  } catch (...) {
    return nullptr;
  }
}

}  // namespace

void set_logger_finder(nvinfer1::ILoggerFinder* given) noexcept {
  const bool foreign = given != nullptr && !is_ours(*given);
  finder.store(foreign ? nullptr : given);
  if (foreign) {
    log_error("compiled with the headers of TensorRT " MPQ_TENSORRT_HEADERS
              ", loaded by another whose loggers differ: errors are written to standard error");
  }
}

void log_error(const char* text) noexcept {
  if (nvinfer1::ILogger* logger = find_logger(); logger != nullptr) {
    logger->log(nvinfer1::ILogger::Severity::kERROR, text);
  } else {
    std::fprintf(stderr, "mpq: %s\n", text);
  }
}

}  // namespace mpq::trt
