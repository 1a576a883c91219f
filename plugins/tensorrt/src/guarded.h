// TensorRT's functions throw nothing: what is thrown inside them is logged.
#pragma once

#include <exception>

#include "logger.h"

namespace mpq::trt {

// What `body` returns, or `failed` where it throws.
template <typename Result, typename Body>
Result guarded(Result failed, Body body) noexcept {
  try {
    return body();
  } catch (const std::exception& error) {
    log_error(error.what());
  } catch (...) {
    log_error("an unknown error");
  }
  return failed;
}

}  // namespace mpq::trt
