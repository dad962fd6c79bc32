#pragma once

#include <charconv>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

#if !__has_include(<nlohmann/json.hpp>)
#error \
    "distil_xlstm's files, models and training need nlohmann_json: link distil_xlstm::io (package nlohmann-json3-dev)"
#include <distil_xlstm: see the error above>
#endif
#include <nlohmann/json.hpp>

#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/io/json_fwd.hpp>
#include <distil_xlstm/io/json_scanner.hpp>
#include <distil_xlstm/io/mapped_file.hpp>
#include <distil_xlstm/io/printable.hpp>
#include <distil_xlstm/io/read_text.hpp>

namespace distil_xlstm::io {

namespace detail {

/// The next value as a tree. nlohmann's own reader is not used: it has no bound on the nesting (copying and dumping
/// a value recurse), silently keeps the last of a key given twice, and brings the readers of four binary formats.
json json_tree(json_scanner& in);

template <class T>
inline constexpr bool is_vector = false;
template <class T>
inline constexpr bool is_vector<std::vector<T>> = true;

[[noreturn]] void refuse(const json& value, std::string_view key, std::string_view name,
                         std::string_view wanted);

/// `value` as a T, or `error`: "name: key must be ..., not ...".
template <class T>
T convert(const json& value, std::string_view key, std::string_view name) {
  [[maybe_unused]] const auto refuse = [&](std::string_view wanted) {
    detail::refuse(value, key, name, wanted);
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
json parse_json(std::string_view text, std::string_view name);

/// `parse_json` of a whole file.
json read_json_file(const std::filesystem::path& path);

/// The value under `key`; throws naming `name` (the file) and the key when it is not there.
const json& member(const json& object, std::string_view key, std::string_view name);

/// Whether the value is this text. nlohmann's `==` asks of every type that could be compared whether JSON can be
/// made of it.
bool is_text(const json& value, std::string_view text);

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

#ifndef DISTIL_XLSTM_COMPILED
#include <distil_xlstm/io/json.ipp>
#endif
