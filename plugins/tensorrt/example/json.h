// As much of JSON as ddim.json holds: objects, lists, numbers, texts without escapes, null.
#pragma once

#include <map>
#include <string>
#include <vector>

namespace example {

class Json {
 public:
  // Throws std::runtime_error on anything else.
  static Json parse(const std::string& text);

  bool is_null() const { return kind_ == Kind::kNull; }
  double number() const;
  const std::string& text() const;
  const std::vector<Json>& list() const;
  const Json& operator[](const std::string& key) const;

 private:
  enum class Kind { kNull, kNumber, kText, kList, kObject };
  friend class JsonReader;

  Kind kind_ = Kind::kNull;
  double number_ = 0;
  std::string text_;
  std::vector<Json> list_;
  std::map<std::string, Json> object_;
};

}  // namespace example
