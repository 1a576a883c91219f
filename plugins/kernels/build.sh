#!/bin/sh
# build.sh OUT [ARCHITECTURE...]: compiles the kernels with nvcc into the shared library OUT, for the
# architectures (such as 87), or all that are supported. It needs no GPU and no header but CUDA's own.
set -eu
out=$1
shift
[ $# -gt 0 ] || set -- 80 86 87 89 90 110 120
here=$(dirname "$0")
for architecture; do
  set -- "$@" -gencode "arch=compute_$architecture,code=sm_$architecture"
  shift
done
# Products and sums are rounded one by one, denormals kept.
nvcc -std=c++17 -O3 -fmad=false -shared -Xcompiler -fPIC,-fvisibility=hidden "$@" -o "$out" \
  "$here"/src/*.cu "$here"/src/*.cpp
