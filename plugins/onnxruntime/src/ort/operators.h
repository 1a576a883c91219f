// MPQLinear and MPQConv as ONNX Runtime's custom operators.
#pragma once

#include "ort_abi.h"

namespace mpq::ort {

// Live as long as the library.
const OrtCustomOp& linear_operator();
const OrtCustomOp& conv_operator();

}  // namespace mpq::ort
