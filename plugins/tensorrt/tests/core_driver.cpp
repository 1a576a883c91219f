#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <new>

#include "../src/launches.h"
#include "driver.h"

using namespace mpq::trt;

namespace {

struct Core {
  explicit Core(PluginLayer given) : layer(std::move(given)), fields(layer) {}

  PluginLayer layer;
  EngineFields fields;
};

constexpr int32_t kHere = 4;  // multiprocessors
std::atomic<long> allocations{0};
std::string said;

template <typename Result, typename Body>
Result tried(Body body) {
  try {
    return body();
  } catch (const std::exception& error) {
    said = error.what();
    return Result{};
  }
}

Core& of(void* plugin) { return *static_cast<Core*>(plugin); }

}  // namespace

// In the place of the usual ones, for this library alone (driver.map).
void* operator new(size_t size) {
  ++allocations;
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}

void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }

long driver_allocations() { return allocations; }

int driver_load(const char*) { return 1; }

void* driver_create(int conv, const char* node, const Field* fields, int count, int) {
  const Operator op = conv != 0 ? Operator::kConv : Operator::kLinear;
  return tried<void*>([&] { return new Core(read_fields(op, node, fields, count, kHere)); });
}

void* driver_clone(void* plugin) {
  return tried<void*>([&] { return new Core(of(plugin).layer); });
}

void driver_free(void* plugin) { delete static_cast<Core*>(plugin); }

const char* driver_said() { return said.c_str(); }

int driver_fields(void* plugin, Field* fields, int most) {
  const std::vector<Field>& kept = of(plugin).fields.fields();
  if (static_cast<int>(kept.size()) > most) return 0;
  std::copy(kept.begin(), kept.end(), fields);
  return static_cast<int>(kept.size());
}

int driver_output_shape(void* plugin, const Shape* x, Shape* y) {
  return tried<int>([&] {
    const auto size_of = [](int64_t size, int32_t extra, int32_t stride) {
      return (size + extra) / stride + 1;
    };
    const PluginLayer& layer = of(plugin).layer;
    check_rank(layer, x->rank);
    y->rank = x->rank;
    set_output_shape(layer, x->sides, x->rank, size_of, int64_t{layer.kernel.rows}, y->sides);
    return 1;
  });
}

int driver_takes(void* plugin, const Tensor* tensors, int position, int inputs) {
  return takes(of(plugin).layer, tensors, position, inputs);
}

int driver_configure(void* plugin, const Shape* inputs, int count, int running) {
  return tried<int>([&] {
    const PluginLayer& layer = of(plugin).layer;
    if (running != 0) {
      check_inputs(layer, inputs, count);
    } else {
      check_largest(layer, inputs, count, {Type::kFloat32, Format::kLinear});
    }
    return 1;
  });
}

size_t driver_workspace(void* plugin, const Shape* x, const Tensor* format) {
  return tried<size_t>([&] { return workspace_bytes(of(plugin).layer, *x, *format); });
}

int driver_enqueue(void* plugin, const Shape* x, const Tensor* format, const void* const* inputs,
                   int count, void* y, void* workspace) {
  Failure failure;
  const Launches launches = {inputs, count > kInputs, y, workspace, nullptr};
  if (enqueue(of(plugin).layer, *x, *format, launches, failure)) return 1;
  said = failure.text;
  return 0;
}
