#pragma once

#include <distil_xlstm/core/config.hpp>
#include <distil_xlstm/core/from_chars.hpp>
#include <distil_xlstm/io/json.hpp>

namespace distil_xlstm::io::detail {

DISTIL_XLSTM_INLINE json json_tree(json_scanner& in) {
  const char kind = in.peek();
  if (kind == '{') {
    json out = json::object();
    auto& members = out.get_ref<json::object_t&>();
    in.members([&](std::string&& key) {
      const auto [at, fresh] = members.try_emplace(std::move(key));
      if (!fresh) in.twice(at->first);
      at->second = json_tree(in);
    });
    return out;
  }
  if (kind == '[') {
    json out = json::array();
    auto& elements = out.get_ref<json::array_t&>();
    in.array([&] { elements.push_back(json_tree(in)); });
    return out;
  }
  if (kind == '"') return in.string({}, {});
  const std::size_t begin = in.position();
  const std::string_view text = in.skip();
  if (text == "null") return nullptr;
  if (text == "true" || text == "false") return text == "true";
  const char *first = text.data(), *last = first + text.size();
  // A whole number is kept as one where 64 bits hold it.
  const auto held = [last](std::from_chars_result r) { return r.ec == std::errc() && r.ptr == last; };
  if (std::uint64_t n = 0; held(std::from_chars(first, last, n))) return n;
  if (std::int64_t n = 0; held(std::from_chars(first, last, n))) return n;
  double x = 0;
  if (distil_xlstm::from_chars(first, last, x).ec != std::errc())
    in.malformed(begin, "a number beyond a double's range");
  return x;
}

[[noreturn]] DISTIL_XLSTM_INLINE void refuse(const json& value, std::string_view key, std::string_view name,
                                             std::string_view wanted) {
  fail(name, ": ", printable(key), " must be ", wanted, ", not ",
       printable(value.dump(-1, ' ', false, json::error_handler_t::replace), 60));
}

}  // namespace distil_xlstm::io::detail

namespace distil_xlstm::io {

DISTIL_XLSTM_INLINE json parse_json(std::string_view text, std::string_view name) {
  detail::json_scanner in(detail::after_byte_order_mark(text, name), name);
  json out = detail::json_tree(in);
  in.end();
  return out;
}

DISTIL_XLSTM_INLINE json read_json_file(const std::filesystem::path& path) {
  const mapped_file file(path);
  const auto bytes = file.bytes();
  return parse_json({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, file.path());
}

DISTIL_XLSTM_INLINE bool is_text(const json& value, std::string_view text) {
  const auto* given = value.get_ptr<const json::string_t*>();
  return given && *given == text;
}

DISTIL_XLSTM_INLINE const json& member(const json& object, std::string_view key, std::string_view name) {
  require(object.is_object(), name, ": a JSON object with ", detail::printable(key), " is expected, not ",
          object.type_name());
  const auto at = object.find(key);
  require(at != object.end(), name, ": ", detail::printable(key), " is missing");
  return *at;
}

}  // namespace distil_xlstm::io
