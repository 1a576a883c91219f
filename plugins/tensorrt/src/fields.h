// The fields of a layer: from an ONNX node, into an engine, out of it. Both are a stranger's.
#pragma once

#include <deque>

#include "layer.h"

namespace mpq::trt {

enum class FieldType { kInt32, kChars, kOther };

// As TensorRT hands it over: data is the owner's.
struct Field {
  const char* name;
  const void* data;
  FieldType type;
  int32_t length;
};

// The attributes that a plugin wants of a node.
const std::vector<const char*>& field_names(Operator op);

// The layer that fields describe. `multiprocessors` counts, and `node` is its name, where no field
// says so: that is, of a node. Throws Refused: a field is missing, unknown, there twice, or not
// what it should be; or the layout, or what the engine keeps, is another version's.
PluginLayer read_fields(Operator op, const std::string& node, const Field* fields, int32_t count,
                        int32_t multiprocessors);

// What an engine keeps of a layer: read_fields makes the same of it.
class EngineFields {
 public:
  explicit EngineFields(const PluginLayer& layer);
  EngineFields(const EngineFields&) = delete;
  EngineFields& operator=(const EngineFields&) = delete;

  const std::vector<Field>& fields() const { return fields_; }
  // All that tells layers of one operator apart, in characters.
  std::string text() const;

 private:
  void keep(const char* name, std::vector<int32_t> values);
  void keep(const char* name, std::string text);

  std::deque<std::vector<int32_t>> numbers_;  // a deque moves nothing that fields point into
  std::deque<std::string> texts_;
  std::vector<Field> fields_;
};

}  // namespace mpq::trt
