#!/bin/sh
# build_plans.sh OUT: compiles the host code that plans launches into the shared library OUT, for
# whoever launches the kernels by CUDA's driver. It needs nothing of CUDA. CXX is heeded.
set -eu
here=$(dirname "$0")
${CXX:-g++} -std=c++17 -O2 -Wall -Wextra -fPIC -shared -fvisibility=hidden -o "$1" \
  "$here/src/plan.cpp" "$here/src/problem.cpp"
