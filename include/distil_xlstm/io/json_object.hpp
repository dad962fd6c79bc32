#pragma once

#include <concepts>
#include <cstddef>
#include <initializer_list>
#include <string>
#include <string_view>

#include <distil_xlstm/io/json.hpp>

namespace distil_xlstm::io::detail {

/// What becomes the value of a member: of nlohmann's own lists each length of a literal is a type, for which its
/// constructors are compiled again.
struct json_value {
  json_value(std::nullptr_t) {}
  json_value(const char* text) : value(std::string(text)) {}
  json_value(std::string_view text) : value(std::string(text)) {}
  json_value(const std::string& text) : value(text) {}
  template <class V>
  requires(!std::convertible_to<const V&, std::string_view>) json_value(const V& v) : value(v) {}
  json value;
};
struct json_member {
  const char* name;
  json_value is;
};

/// Of a name given twice the last counts.
inline json json_object(std::initializer_list<json_member> members) {
  json out = json::object();
  for (const auto& [name, is] : members) out[name] = is.value;
  return out;
}
/// An array.
inline json json_texts(std::initializer_list<std::string_view> texts) {
  json out = json::array();
  for (const auto text : texts) out.push_back(json_value(text).value);
  return out;
}

}  // namespace distil_xlstm::io::detail
