# Cross-compiles for 64-bit ARM boards:
#
#   cmake -S plugins/tensorrt -B build/aarch64 -DTensorRT_ROOT=/path -DCUDA_TARGET=/path \
#     -DCMAKE_TOOLCHAIN_FILE=plugins/tensorrt/cmake/aarch64.cmake -DCMAKE_CUDA_ARCHITECTURES=87
#
# CUDA_TARGET holds include/ and lib/ with the board's libcudart_static.a: of CUDA's cross packages
# (targets/sbsa-linux or aarch64-linux), or of the Python package nvidia-cuda-runtime for aarch64. Its
# version, and nvcc's, must be one that the board's driver takes: for JetPack 6, 12.6.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_LIBRARY_ARCHITECTURE aarch64-linux-gnu)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_CUDA_HOST_COMPILER aarch64-linux-gnu-g++)

list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES CUDA_TARGET)
if(CUDA_TARGET)
  # What the compiler itself needs lies beside it, for any processor.
  find_program(mpq_nvcc NAMES $ENV{CUDACXX} ${CMAKE_CUDA_COMPILER} nvcc HINTS /usr/local/cuda/bin)
  get_filename_component(mpq_nvcc "${mpq_nvcc}" REALPATH)
  get_filename_component(mpq_cuda "${mpq_nvcc}" DIRECTORY)
  set(CMAKE_CUDA_FLAGS_INIT
      "-I${CUDA_TARGET}/include -I${mpq_cuda}/../include -L${CUDA_TARGET}/lib")
  # For find_package(CUDAToolkit).
  set(CUDAToolkit_ROOT ${CUDA_TARGET})
  set(CUDA_CUDART ${CUDA_TARGET}/lib/libcudart_static.a)
endif()
