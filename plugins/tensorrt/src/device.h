// The GPU that is current.
#pragma once

#include <cstdint>

namespace mpq::trt {

// Of a GPU that is not here, as where an engine is built without one.
constexpr int32_t kUnknownMultiprocessors = 32;

int32_t current_multiprocessors() noexcept;

}  // namespace mpq::trt
