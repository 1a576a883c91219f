#!/bin/sh
# build.sh OUT: compiles the kernels beside this folder for the processor, into the shared library OUT.
# CXX and CXXFLAGS are heeded.
set -eu
out=$1
here=$(dirname "$0")
# Misaligned accesses and indices beyond an array stop the program; nothing is contracted.
${CXX:-g++} -std=c++17 -O2 ${CXXFLAGS:-} -DMPQ_EMULATION -fPIC -shared -pthread \
  -ffp-contract=off -fno-strict-aliasing -Wall -Wextra -Wno-unknown-pragmas \
  -fsanitize=alignment,bounds,shift,signed-integer-overflow -fsanitize-undefined-trap-on-error \
  -o "$out" -x c++ "$here"/../src/*.cu "$here"/../src/*.cpp "$here"/*.cpp
