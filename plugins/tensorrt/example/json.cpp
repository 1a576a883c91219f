#include "json.h"

#include <cstring>
#include <locale>
#include <sstream>
#include <stdexcept>

namespace example {

class JsonReader {
 public:
  explicit JsonReader(const std::string& text) : text_(text) {}

  Json whole() {
    Json value = one(0);
    skip_blanks();
    if (at_ != text_.size()) fail();
    return value;
  }

 private:
  static constexpr int kMostDeep = 16;

  [[noreturn]] void fail() const {
    throw std::runtime_error("no JSON at character " + std::to_string(at_));
  }

  void skip_blanks() {
    while (at_ < text_.size() && std::strchr(" \t\r\n", text_[at_]) != nullptr) ++at_;
  }

  bool take(char wanted) {
    skip_blanks();
    if (at_ == text_.size() || text_[at_] != wanted) return false;
    ++at_;
    return true;
  }

  void need(char wanted) {
    if (!take(wanted)) fail();
  }

  Json one(int depth) {
    if (depth > kMostDeep) fail();
    Json value;
    if (take('{')) {
      value.kind_ = Json::Kind::kObject;
      for (bool more = !take('}'); more; more = !take('}')) {
        if (!value.object_.empty()) need(',');
        std::string key = text();
        need(':');
        value.object_[std::move(key)] = one(depth + 1);
      }
    } else if (take('[')) {
      value.kind_ = Json::Kind::kList;
      for (bool more = !take(']'); more; more = !take(']')) {
        if (!value.list_.empty()) need(',');
        value.list_.push_back(one(depth + 1));
      }
    } else if (at_ < text_.size() && text_[at_] == '"') {
      value.kind_ = Json::Kind::kText;
      value.text_ = text();
    } else if (text_.compare(at_, 4, "null") == 0) {
      at_ += 4;
    } else {
      value.kind_ = Json::Kind::kNumber;
      value.number_ = number();
    }
    return value;
  }

  std::string text() {
    need('"');
    const std::size_t end = text_.find_first_of("\"\\", at_);
    if (end == std::string::npos || text_[end] == '\\') fail();
    const std::string inner = text_.substr(at_, end - at_);
    at_ = end + 1;
    return inner;
  }

  double number() {
    const std::size_t end = text_.find_first_not_of("+-.0123456789eE", at_);
    const std::size_t size = (end == std::string::npos ? text_.size() : end) - at_;
    std::istringstream stream(text_.substr(at_, size));
    stream.imbue(std::locale::classic());
    double value = 0;
    if (size == 0 || !(stream >> value) || stream.peek() != EOF) fail();
    at_ += size;
    return value;
  }

  const std::string& text_;
  std::size_t at_ = 0;
};

Json Json::parse(const std::string& text) { return JsonReader(text).whole(); }

double Json::number() const {
  if (kind_ != Kind::kNumber) throw std::runtime_error("a number is missing");
  return number_;
}

const std::string& Json::text() const {
  if (kind_ != Kind::kText) throw std::runtime_error("a text is missing");
  return text_;
}

const std::vector<Json>& Json::list() const {
  if (kind_ != Kind::kList) throw std::runtime_error("a list is missing");
  return list_;
}

const Json& Json::operator[](const std::string& key) const {
  const auto found = object_.find(key);
  if (found == object_.end()) throw std::runtime_error("'" + key + "' is missing");
  return found->second;
}

}  // namespace example
