#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/io/mapped_file.hpp>
#include <distil_xlstm/io/printable.hpp>
#include <distil_xlstm/io/read_text.hpp>

namespace distil_xlstm::io {

using json = nlohmann::json;
using ordered_json = nlohmann::ordered_json;  ///< members in the order they were given, for writing

namespace detail {

/// nlohmann's SAX events into a `json`. Unlike the library's own builder it bounds the nesting (copying and
/// dumping a value recurse) and refuses a key given twice (of which the library silently keeps the last).
class json_builder {
 public:
  static constexpr std::size_t deepest = 256;
  explicit json_builder(std::string_view name) : name_(name) {}
  json take() { return std::move(root_); }

  bool null() { return place(nullptr); }
  bool boolean(bool x) { return place(x); }
  bool number_integer(json::number_integer_t x) { return place(x); }
  bool number_unsigned(json::number_unsigned_t x) { return place(x); }
  bool number_float(json::number_float_t x, const std::string&) { return place(x); }
  bool string(std::string& x) { return place(std::move(x)); }
  bool binary(json::binary_t&) { fail(name_, ": binary values are not JSON"); }
  bool start_object(std::size_t) { return open(json::object()); }
  bool start_array(std::size_t) { return open(json::array()); }
  bool end_object() { return close(); }
  bool end_array() { return close(); }
  bool key(std::string& k) {
    const auto [at, fresh] = open_.back()->get_ref<json::object_t&>().try_emplace(k);
    require(fresh, name_, ": the key \"", printable(k), "\" is given twice");
    slot_ = &at->second;
    return true;
  }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception& e) {
    std::string_view what =
        e.what();  // "[json.exception.parse_error.101] parse error at ...: syntax error ..."
    if (const auto bracket = what.find("] "); bracket != what.npos) what.remove_prefix(bracket + 2);
    fail(name_, ": not valid JSON at byte ", position, ": ", printable(what, 240));
  }

 private:
  template <class V>
  json* put(V&& value) {
    if (open_.empty()) {
      root_ = std::forward<V>(value);
      return &root_;
    }
    if (open_.back()->is_array())
      return &open_.back()->get_ref<json::array_t&>().emplace_back(std::forward<V>(value));
    *slot_ = std::forward<V>(value);
    return slot_;
  }
  template <class V>
  bool place(V&& value) {
    put(json(std::forward<V>(value)));
    return true;
  }
  bool open(json&& container) {
    require(open_.size() < deepest, name_, ": JSON nested more than ", deepest, " deep");
    open_.push_back(put(std::move(container)));
    return true;
  }
  bool close() {
    open_.pop_back();
    return true;
  }

  std::string_view name_;
  json root_;
  json* slot_ = nullptr;
  std::vector<json*> open_;
};

template <class T>
inline constexpr bool is_vector = false;
template <class T>
inline constexpr bool is_vector<std::vector<T>> = true;

/// `value` as a T, or `error`: "name: key must be ..., not ...".
template <class T>
T convert(const json& value, std::string_view key, std::string_view name) {
  [[maybe_unused]] const auto refuse = [&](std::string_view wanted) {
    fail(name, ": ", printable(key), " must be ", wanted, ", not ",
         printable(value.dump(-1, ' ', false, json::error_handler_t::replace), 60));
  };
  if constexpr (std::is_same_v<T, json>) {
    return value;
  } else if constexpr (std::is_same_v<T, bool>) {
    if (!value.is_boolean()) refuse("true or false");
    return value.get<bool>();
  } else if constexpr (std::is_integral_v<T>) {
    if (!value.is_number_integer()) refuse("an integer");
    const bool fits = value.is_number_unsigned() ? std::in_range<T>(value.get<std::uint64_t>())
                                                 : std::in_range<T>(value.get<std::int64_t>());
    if (!fits) refuse(std::is_unsigned_v<T> ? "a non-negative integer in range" : "an integer in range");
    return value.get<T>();
  } else if constexpr (std::is_floating_point_v<T>) {
    if (!value.is_number()) refuse("a number");
    return value.get<T>();
  } else if constexpr (std::is_same_v<T, std::string>) {
    if (!value.is_string()) refuse("a string");
    return value.get<std::string>();
  } else {
    static_assert(is_vector<T>,
                  "get: bool, integers, floating point, std::string, json or a std::vector of these");
    if (!value.is_array()) refuse("an array");
    T out;
    out.reserve(value.size());
    for (const json& x : value) out.push_back(convert<typename T::value_type>(x, key, name));
    return out;
  }
}

}  // namespace detail

/// Parses one JSON text; a byte order mark of UTF-8 is passed over. Throws `error` in one line that begins with `name`
/// (the file) when it is malformed, of another encoding, nested more than 256 deep, or an object gives a key twice.
inline json parse_json(std::string_view text, std::string_view name) {
  text = detail::after_byte_order_mark(text, name);
  // What reads next takes a NUL for the end.
  const std::size_t nul = text.find('\0');
  require(nul == text.npos, name, ": not valid JSON at byte ", nul, ": a NUL");
  detail::json_builder builder(name);
  json::sax_parse(text.begin(), text.end(), &builder);
  return builder.take();
}

/// `parse_json` of a whole file.
inline json read_json_file(const std::filesystem::path& path) {
  const mapped_file file(path);
  const auto bytes = file.bytes();
  return parse_json({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, file.path());
}

/// The value under `key`; throws naming `name` (the file) and the key when it is not there.
inline const json& member(const json& object, std::string_view key, std::string_view name) {
  require(object.is_object(), name, ": a JSON object with ", detail::printable(key), " is expected, not ",
          object.type_name());
  const auto at = object.find(key);
  require(at != object.end(), name, ": ", detail::printable(key), " is missing");
  return *at;
}

/// The value under `key` as a T: bool, an integer type (range checked), a floating-point type, std::string,
/// json, or a std::vector of these. Throws naming `name` (the file) and the key when it is missing or of
/// another type.
template <class T>
T get(const json& object, std::string_view key, std::string_view name) {
  return detail::convert<T>(member(object, key, name), key, name);
}

/// As `get`, but `otherwise` where the key is absent or null.
template <class T>
T get_or(const json& object, std::string_view key, std::string_view name, T otherwise) {
  require(object.is_object(), name, ": a JSON object with ", detail::printable(key), " is expected, not ",
          object.type_name());
  const auto at = object.find(key);
  return at == object.end() || at->is_null() ? std::move(otherwise) : detail::convert<T>(*at, key, name);
}

}  // namespace distil_xlstm::io
