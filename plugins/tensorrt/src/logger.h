// TensorRT's logger, as far as it can be found: of the engine or builder that calls a plugin.
#pragma once

#include "nv_infer.h"

namespace mpq::trt {

// Where to find it from now on; null: nowhere.
void set_logger_finder(nvinfer1::ILoggerFinder* finder) noexcept;

// To TensorRT's logger, or to standard error where there is none.
void log_error(const char* text) noexcept;

}  // namespace mpq::trt
