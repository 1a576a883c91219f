// Statuses of ONNX Runtime as exceptions on our side of the border, and back.
#pragma once

#include <exception>
#include <new>
#include <stdexcept>
#include <string>

#include "../layer.h"
#include "ort_abi.h"

namespace mpq::ort {

// A call of ONNX Runtime's API that failed; the text is the runtime's own.
struct ApiError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Throws ApiError unless the status is null. The status is released.
inline void require(const OrtApi& api, OrtStatus* status) {
  if (status == nullptr) return;
  struct Release {
    const OrtApi& api;
    OrtStatus* status;
    ~Release() { api.ReleaseStatus(status); }
  } release{api, status};
  throw ApiError(api.GetErrorMessage(status));
}

// Runs `work`; what it throws becomes a status that begins with `where()`. No exception leaves.
template <typename Work, typename Where>
OrtStatus* guarded(const OrtApi& api, Work&& work, Where&& where) noexcept {
  try {
    work();
    return nullptr;
  } catch (const std::bad_alloc&) {
    return api.CreateStatus(kFail, "mpq: not enough memory");
  } catch (const std::exception& error) {
    const bool ours = dynamic_cast<const ContractError*>(&error) != nullptr;
    const OrtErrorCode code = ours ? kInvalidArgument : kFail;
    try {
      return api.CreateStatus(code, (where() + ": " + error.what()).c_str());
    } catch (...) {  // no memory for the text
      return api.CreateStatus(code, "mpq: an error whose text did not fit into memory");
    }
  } catch (...) {
    return api.CreateStatus(kFail, "mpq: an unknown error");
  }
}

}  // namespace mpq::ort
