// What a node of the graph says about its layer: attributes and constant inputs.
#pragma once

#include <string>

#include "status.h"

namespace mpq::ort {

// The inputs of both operators, in the order of docs/format.md.
enum Input : std::size_t {
  kX,
  kStepIndex,
  kActScale,
  kActZeroPoint,
  kPlanes,
  kSteps,
  kScale,
  kRowOrder,
  kBias,
  kInputFactor,
  kInputShift,
  kResidual,  // may be absent
  kInputCount,
};

const char* name_of(Input input);

// The layer of a node. Throws ContractError on another layout, a newer version, an attribute that
// is missing or of another form, or an input that is no constant.
LayerDescription describe(const OrtApi& api, const OrtKernelInfo& info, bool is_conv);

}  // namespace mpq::ort
