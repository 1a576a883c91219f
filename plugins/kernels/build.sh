#!/bin/sh
# build.sh OUT [ARCHITECTURE...]: compiles the kernels with nvcc into the shared library OUT, for the
# architectures (such as 87), the newest last, or all that are supported. GPUs newer than the last
# compile its PTX when they load it. It needs no GPU and no header but CUDA's own. NVCC is heeded.
set -eu
out=$1
shift
[ $# -gt 0 ] || set -- 80 86 87 89 90 110 120
here=$(dirname "$0")
for architecture; do
  set -- "$@" -gencode "arch=compute_$architecture,code=sm_$architecture"
  shift
done
set -- "$@" -gencode "arch=compute_$architecture,code=compute_$architecture"
# shellcheck disable=SC2046
"${NVCC:-nvcc}" $(cat "$here/device.flags") -O2 -shared -Xcompiler -fPIC,-fvisibility=hidden "$@" \
  -o "$out" "$here"/src/*.cu "$here"/src/*.cpp
