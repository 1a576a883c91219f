// TensorRT's headers: whoever includes this is of the part that needs them.
#pragma once

#include <NvInferRuntime.h>

#define MPQ_TEXT_OF(number) #number
#define MPQ_TEXT(number) MPQ_TEXT_OF(number)
// The version of these headers.
#define MPQ_TENSORRT_HEADERS MPQ_TEXT(NV_TENSORRT_MAJOR) "." MPQ_TEXT(NV_TENSORRT_MINOR)
