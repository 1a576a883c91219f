#!/bin/sh
# build.sh OUT KERNELS: compiles what needs no TensorRT, with a driver for tests, into the shared
# library OUT. KERNELS is the library of the kernels. CXX is heeded.
set -eu
here=$(dirname "$0")
"${CXX:-g++}" -std=c++17 -O1 -fPIC -shared -Wall -Wextra -Werror \
  -fsanitize=alignment,bounds,signed-integer-overflow -fsanitize-undefined-trap-on-error -o "$1" \
  "$here"/core_driver.cpp "$here"/../src/fields.cpp "$here"/../src/launches.cpp \
  "$here"/../src/tensors.cpp "$2" -Wl,-rpath,"$(dirname "$2")" -Wl,--version-script="$here/driver.map"
