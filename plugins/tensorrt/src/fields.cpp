#include "fields.h"

#include <algorithm>
#include <cstring>

namespace mpq::trt {
namespace {

constexpr const char* kMultiprocessors = "multiprocessors";
constexpr const char* kNode = "node";
// Of what an engine keeps: other fields, another number.
constexpr const char* kEngineFormat = "engine_format";
constexpr int32_t kThisEngineFormat = 1;

constexpr int32_t kMaxColumns = INT32_MAX / (255 * 127);
constexpr int32_t kMaxExtent = 4096;
constexpr int32_t kMaxPlanes = 8;

struct Geometry {
  const char* name;
  int32_t length, least;
  int32_t* (*place)(MpqLayer&);
};

constexpr Geometry kGeometry[] = {
    {"kernel_shape", 2, 1, [](MpqLayer& layer) { return layer.kernel_shape; }},
    {"strides", 2, 1, [](MpqLayer& layer) { return layer.strides; }},
    {"pads", 4, 0, [](MpqLayer& layer) { return layer.pads; }},
    {"dilations", 2, 1, [](MpqLayer& layer) { return layer.dilations; }},
};

bool same(const char* a, const char* b) { return std::strcmp(a, b) == 0; }

bool contains(const std::vector<const char*>& names, const char* name) {
  return std::any_of(names.begin(), names.end(), [&](auto* one) { return same(one, name); });
}

std::string listed(const std::vector<int32_t>& values) {
  std::string text;
  for (int32_t value : values) text += (text.empty() ? "" : ", ") + std::to_string(value);
  return text.empty() ? "none" : text;
}

class Reader {
 public:
  Reader(const std::string& node, const Field* fields, int32_t count)
      : node_(node), fields_(fields, fields + std::max<int32_t>(count, 0)) {}

  [[noreturn]] void refuse(const std::string& why) const { throw Refused(node_, why); }

  const Field* find(const char* name) const {
    for (const Field& field : fields_) {
      if (same(field.name, name)) return &field;
    }
    return nullptr;
  }

  // That every field is known, there once, and not empty.
  void check_names(const std::vector<const char*>& attributes) const {
    const std::vector<const char*> others = {kMultiprocessors, kNode, kEngineFormat,
                                             "plugin_version", "plugin_namespace"};
    for (const Field& field : fields_) {
      if (field.name == nullptr) refuse("it has a field without a name");
      if (!contains(attributes, field.name) && !contains(others, field.name)) {
        refuse(std::string("it has a field that this version does not know: ") + field.name);
      }
      if (find(field.name) != &field) refuse(std::string("it has twice ") + field.name);
    }
    std::string missing;
    for (const char* name : attributes) {
      if (find(name) == nullptr) missing += (missing.empty() ? "" : ", ") + std::string(name);
    }
    if (!missing.empty()) refuse("it has no " + missing);
  }

  std::vector<int32_t> numbers(const char* name) const {
    const Field& field = *find(name);
    if (field.type != FieldType::kInt32 || field.length < 0 ||
        (field.data == nullptr && field.length > 0)) {
      refuse(std::string(name) + " is no list of int32");
    }
    const auto* begin = static_cast<const int32_t*>(field.data);
    return {begin, begin + field.length};
  }

  std::vector<int32_t> numbers(const char* name, int32_t length, int32_t least,
                               int32_t most) const {
    const std::vector<int32_t> values = numbers(name);
    const bool in_range = std::all_of(values.begin(), values.end(), [&](int32_t value) {
      return least <= value && value <= most;
    });
    if (static_cast<int64_t>(values.size()) != length || !in_range) {
      refuse(std::string(name) + " is " + listed(values) + ", not " + std::to_string(length) +
             " of " + std::to_string(least) + " to " + std::to_string(most));
    }
    return values;
  }

  int32_t number(const char* name, int32_t least, int32_t most) const {
    return numbers(name, 1, least, most).front();
  }

  // With or without a 0 at its end.
  std::string text(const char* name) const {
    const Field& field = *find(name);
    if (field.type != FieldType::kChars || field.length < 0 || field.data == nullptr) {
      refuse(std::string(name) + " is no text");
    }
    const auto* begin = static_cast<const char*>(field.data);
    return {begin, std::find(begin, begin + field.length, '\0')};
  }

 private:
  const std::string& node_;
  std::vector<Field> fields_;
};

void check_planes(const Reader& read, const PluginLayer& layer) {
  const std::vector<int32_t>& rows = layer.plane_rows;
  const bool some = !rows.empty() && rows.size() <= kMaxPlanes;
  if (!some || rows.back() < 1 || !std::is_sorted(rows.rbegin(), rows.rend())) {
    read.refuse("plane_rows are " + listed(rows));
  }
}

// Rows and channels of a layer whose geometry is there.
void set_sizes(const Reader& read, PluginLayer& layer) {
  MpqLayer& kernel = layer.kernel;
  kernel.rows = layer.plane_rows.front();
  kernel.max_planes = static_cast<int32_t>(layer.plane_rows.size());
  const int64_t taps = int64_t{kernel.kernel_shape[0]} * kernel.kernel_shape[1];
  const int64_t channels = layer.columns / taps * kernel.group;
  if (layer.columns % taps != 0 || kernel.rows % kernel.group != 0 || channels > INT32_MAX) {
    read.refuse(std::to_string(kernel.rows) + " rows of " + std::to_string(layer.columns) +
                " columns are none of " + std::to_string(taps) + " taps and " +
                std::to_string(kernel.group) + " groups");
  }
  kernel.channels = static_cast<int32_t>(channels);
}

}  // namespace

const std::vector<const char*>& field_names(Operator op) {
  static const std::vector<const char*> linear = {"act_bits", "top_shift", "plane_rows", "K",
                                                  "layout"};
  static const std::vector<const char*> conv = {"act_bits",  "top_shift",    "plane_rows", "K",
                                                "layout",    "kernel_shape", "strides",    "pads",
                                                "dilations", "group"};
  return op == Operator::kLinear ? linear : conv;
}

PluginLayer read_fields(Operator op, const std::string& node, const Field* fields, int32_t count,
                        int32_t multiprocessors) {
  const Reader read(node, fields, count);
  read.check_names(field_names(op));
  if (read.find(kEngineFormat) != nullptr) {
    read.number(kEngineFormat, kThisEngineFormat, kThisEngineFormat);
  }
  if (const std::string layout = read.text("layout"); layout != MPQ_LAYOUT_VERSION) {
    read.refuse("its weights lie in layout '" + layout + "', the kernels read '" +
                MPQ_LAYOUT_VERSION + "'; lower the bundle again");
  }
  PluginLayer layer;
  layer.op = op;
  layer.node = read.find(kNode) != nullptr ? read.text(kNode) : node;
  layer.plane_rows = read.numbers("plane_rows");
  check_planes(read, layer);
  layer.columns = read.number("K", 1, kMaxColumns);
  layer.multiprocessors = read.find(kMultiprocessors) != nullptr
                              ? read.number(kMultiprocessors, 1, 1 << 16)
                              : multiprocessors;
  MpqLayer& kernel = layer.kernel;
  kernel.act_bits = read.number("act_bits", 2, 8);
  kernel.top_shift = read.number("top_shift", 0, 8 - kernel.act_bits);
  kernel.linear = op == Operator::kLinear;
  kernel.group = op == Operator::kLinear ? 1 : read.number("group", 1, INT32_MAX);
  for (const Geometry& one : kGeometry) {
    if (op == Operator::kLinear) {
      std::fill_n(one.place(kernel), one.length, one.least);
    } else {
      const auto values = read.numbers(one.name, one.length, one.least, kMaxExtent);
      std::copy(values.begin(), values.end(), one.place(kernel));
    }
  }
  set_sizes(read, layer);
  return layer;
}

EngineFields::EngineFields(const PluginLayer& layer) {
  keep(kEngineFormat, std::vector<int32_t>{kThisEngineFormat});
  keep("act_bits", std::vector<int32_t>{layer.kernel.act_bits});
  keep("top_shift", std::vector<int32_t>{layer.kernel.top_shift});
  keep("plane_rows", layer.plane_rows);
  keep("K", std::vector<int32_t>{layer.columns});
  keep("layout", std::string(MPQ_LAYOUT_VERSION));
  keep(kMultiprocessors, std::vector<int32_t>{layer.multiprocessors});
  keep(kNode, layer.node);
  if (layer.op == Operator::kLinear) return;
  MpqLayer kernel = layer.kernel;
  for (const Geometry& one : kGeometry) {
    const int32_t* begin = one.place(kernel);
    keep(one.name, std::vector<int32_t>(begin, begin + one.length));
  }
  keep("group", std::vector<int32_t>{kernel.group});
}

void EngineFields::keep(const char* name, std::vector<int32_t> values) {
  const auto& kept = numbers_.emplace_back(std::move(values));
  fields_.push_back({name, kept.data(), FieldType::kInt32, static_cast<int32_t>(kept.size())});
}

void EngineFields::keep(const char* name, std::string text) {
  const auto& kept = texts_.emplace_back(std::move(text));
  fields_.push_back({name, kept.c_str(), FieldType::kChars, static_cast<int32_t>(kept.size()) + 1});
}

std::string EngineFields::text() const {
  std::string all = MPQ_LAYOUT_VERSION;
  for (const Field& field : fields_) {
    if (field.type != FieldType::kInt32) continue;
    const auto* begin = static_cast<const int32_t*>(field.data);
    all += std::string("; ") + field.name + " " + listed({begin, begin + field.length});
  }
  return all;
}

}  // namespace mpq::trt
