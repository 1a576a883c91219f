# TensorRT's headers: of an SDK, of JetPack or Debian packages, or a folder that holds them.
#
# TensorRT_ROOT is any of these folders, or nothing where the system has them. The plugin links no
# library of TensorRT's: whoever loads it has one. Sets TensorRT_FOUND, TensorRT_INCLUDE_DIR and
# TensorRT_VERSION.
find_path(
  TensorRT_INCLUDE_DIR NvInferRuntime.h
  HINTS ${TensorRT_ROOT}
  PATH_SUFFIXES include include/${CMAKE_LIBRARY_ARCHITECTURE} ${CMAKE_SYSTEM_PROCESSOR}-linux-gnu
                targets/${CMAKE_SYSTEM_PROCESSOR}-linux-gnu/include
  NO_CMAKE_FIND_ROOT_PATH)

set(TensorRT_VERSION "")
if(TensorRT_INCLUDE_DIR)
  # "#define NV_TENSORRT_MAJOR 10", or since 10.16 "#define TRT_MAJOR_ENTERPRISE 10".
  foreach(part MAJOR MINOR PATCH)
    file(STRINGS ${TensorRT_INCLUDE_DIR}/NvInferVersion.h line
         REGEX "^#define (NV_TENSORRT|TRT)_${part}(_ENTERPRISE)? [0-9]+")
    string(REGEX REPLACE "^[^ ]+ [^ ]+ ([0-9]+).*" "\\1" number "${line}")
    list(APPEND TensorRT_VERSION ${number})
  endforeach()
  list(JOIN TensorRT_VERSION . TensorRT_VERSION)
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(
  TensorRT
  REQUIRED_VARS TensorRT_INCLUDE_DIR
  VERSION_VAR TensorRT_VERSION
  REASON_FAILURE_MESSAGE
    "Name its folder with -DTensorRT_ROOT=..., which holds NvInferRuntime.h itself or in include/")
