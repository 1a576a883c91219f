// A plugin's functions in C, for tests/plugins/tensorrt: of the part without TensorRT's headers
// (core_driver.cpp), and of a whole plugin library (plugin_driver.cpp). A function that fails
// returns 0 and leaves its reason for driver_said.
#pragma once

#include "../src/fields.h"
#include "../src/tensors.h"

extern "C" {

// For plugin_driver.cpp, the library; before anything else.
int driver_load(const char* library);

void* driver_create(int conv, const char* node, const mpq::trt::Field* fields, int count,
                    int from_engine);
void* driver_clone(void* plugin);
void driver_free(void* plugin);
const char* driver_said();

// What an engine keeps; the plugin's own.
int driver_fields(void* plugin, mpq::trt::Field* fields, int most);
int driver_output_shape(void* plugin, const mpq::trt::Shape* x, mpq::trt::Shape* y);
int driver_takes(void* plugin, const mpq::trt::Tensor* tensors, int position, int inputs);
// At build time, the largest shapes; `running`: at run time.
int driver_configure(void* plugin, const mpq::trt::Shape* inputs, int count, int running);
size_t driver_workspace(void* plugin, const mpq::trt::Shape* x, const mpq::trt::Tensor* format);
int driver_enqueue(void* plugin, const mpq::trt::Shape* x, const mpq::trt::Tensor* format,
                   const void* const* inputs, int count, void* y, void* workspace);

// How often the core has asked for memory; core_driver.cpp alone knows.
long driver_allocations();
}
