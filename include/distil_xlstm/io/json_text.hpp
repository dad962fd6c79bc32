#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include <distil_xlstm/core/extent.hpp>
#include <distil_xlstm/io/json.hpp>

namespace distil_xlstm::io::detail {

/// The text of a JSON value as it is put: members in the order given, laid out as nlohmann's `dump` does. One of its
/// trees that keeps an order would be a second `basic_json`, which all that include this would compile.
class json_text {
 public:
  /// Blanks of a level; -1: no line breaks. What is not UTF-8 is replaced, or (`strict`) throws `json::exception`.
  explicit json_text(int indent, bool strict = false) : indent_(indent), strict_(strict) {}

  /// What `f` puts, between braces or brackets.
  template <class F>
  json_text& object(F f) {
    open('{');
    f();
    return close('}');
  }
  template <class F>
  json_text& array(F f) {
    open('[');
    f();
    return close(']');
  }
  /// The next value is the member of this name.
  json_text& key(std::string_view name) {
    next();
    write(json(std::string(name)));
    text_ += indent_ < 0 ? ":" : ": ";
    named_ = true;
    return *this;
  }
  json_text& put(const json& value) {
    next();
    write(value);
    return *this;
  }
  json_text& put(std::string_view value) { return put(json(std::string(value))); }
  json_text& put(const std::string& value) { return put(json(value)); }
  json_text& put(const char* value) { return put(std::string_view(value)); }
  json_text& put(bool value) { return raw(value ? "true" : "false"); }
  json_text& put(int value) { return put(index(value)); }
  json_text& put(index value) { return raw(std::to_string(value)); }
  json_text& null() { return raw("null"); }
  /// A member and its value.
  template <class V>
  json_text& member(std::string_view name, const V& value) {
    return key(name).put(value);
  }

  const std::string& text() const { return text_; }

 private:
  void write(const json& value) {
    text_ +=
        value.dump(-1, ' ', false, strict_ ? json::error_handler_t::strict : json::error_handler_t::replace);
  }
  json_text& raw(std::string_view value) {
    next();
    text_ += value;
    return *this;
  }
  void open(char bracket) {
    next();
    text_ += bracket;
    ++depth_, first_ = true;
  }
  json_text& close(char bracket) {
    --depth_;
    if (!first_) new_line();
    first_ = false;
    text_ += bracket;
    return *this;
  }
  /// Before a value or a name.
  void next() {
    if (named_) {
      named_ = false;
      return;
    }
    if (depth_ == 0) return;
    if (!first_) text_ += ',';
    first_ = false;
    new_line();
  }
  void new_line() {
    if (indent_ < 0) return;
    text_ += '\n';
    text_.append(static_cast<std::size_t>(indent_ * depth_), ' ');
  }

  std::string text_;
  int indent_, depth_ = 0;
  bool strict_, first_ = true, named_ = false;
};

}  // namespace distil_xlstm::io::detail
