#!/bin/sh
# check_headers.sh INCLUDE...: compiles the part that includes TensorRT's headers, and the example,
# against each of these folders. CXX, and CUDA_INCLUDE for cuda_runtime_api.h, are heeded.
set -eu
here=$(dirname "$0")
cuda=${CUDA_INCLUDE:-/usr/local/cuda/include}
[ $# -gt 0 ] || { sed -n 2,3p "$0" >&2; exit 2; }
for include; do
  version=$(sed -n 's/^#define \(NV_TENSORRT\|TRT\)_\(MAJOR\|MINOR\|PATCH\)\(_ENTERPRISE\)\? \([0-9]*\).*/\4/p' \
    "$include/NvInferVersion.h" | head -3 | paste -sd.)
  for source in "$here"/src/*.cpp; do
    "${CXX:-g++}" -std=c++17 -fsyntax-only -Wall -Wextra -Werror -Wno-deprecated-declarations \
      -isystem "$include" -isystem "$cuda" "$source"
  done
  echo "TensorRT $version: compiles"
done
