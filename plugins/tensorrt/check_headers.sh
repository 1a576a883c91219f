#!/bin/sh
# check_headers.sh INCLUDE...: compiles what includes TensorRT's headers, the example among it, against
# each of these folders. CXX, and CUDA_INCLUDE for cuda_runtime_api.h, are heeded.
set -eu
here=$(dirname "$0")
cuda=${CUDA_INCLUDE:-/usr/local/cuda/include}
[ $# -gt 0 ] || { sed -n 2,3p "$0" >&2; exit 2; }
for include; do
  [ -f "$include/NvInferVersion.h" ] || { echo "$include has no NvInferVersion.h" >&2; exit 2; }
  for source in "$here"/src/*.cpp "$here"/tests/pl*.cpp "$here"/tests/pr*.cpp "$here"/example/*.cpp; do
    "${CXX:-g++}" -std=c++17 -fsyntax-only -Wall -Wextra -Werror \
      -isystem "$include" -isystem "$cuda" "$source"
  done
  # "#define NV_TENSORRT_MAJOR 10", or since 10.16 "#define TRT_MAJOR_ENTERPRISE 10".
  version=$(sed -nE 's/^#define (NV_TENSORRT|TRT)_(MAJOR|MINOR|PATCH)(_ENTERPRISE)? ([0-9]+).*/\4/p' \
    "$include/NvInferVersion.h" | paste -sd.)
  echo "TensorRT $version: compiles"
done
