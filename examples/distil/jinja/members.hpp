#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "arguments.hpp"
#include "operators.hpp"

/// Attributes, elements and methods of values. A method of Python's that is not here is refused; what Python does
/// not have is undefined.
namespace program::jinja {

/// The `loop` of a for loop.
struct loop_state {
  std::vector<value> items;
  std::size_t at = 0;
};

namespace detail {

inline value texts(const std::vector<std::string>& parts) {
  std::vector<value> out;
  for (const auto& part : parts) out.emplace_back(part);
  return make_list(std::move(out));
}

inline value strip_method(const std::string& s, const arguments& a, side where) {
  const auto [characters] = a.bind("strip", {"chars"});
  if (!characters || is_none(*characters)) return strip(s, where);
  return strip(s, where, need_text(*characters, "strip"));
}
inline value split_method(const std::string& s, const arguments& a, bool from_right) {
  const auto [separator, most] = a.bind("split", {"sep", "maxsplit"});
  const std::int64_t n = most ? need_int(*most, "split") : -1;
  if (separator && !is_none(*separator)) return texts(split(s, need_text(*separator, "split"), n, from_right));
  require(!from_right || n < 0, "rsplit at blanks with maxsplit is not supported");
  return texts(split_words(s, n));
}
inline value partition_method(const std::string& s, const arguments& a, bool from_right) {
  const auto [separator] = a.bind("partition", {"sep"}, 1);
  const std::string& mark = need_text(*separator, "partition");
  require(!mark.empty(), "an empty separator");
  const std::size_t at = from_right ? s.rfind(mark) : s.find(mark);
  if (at == s.npos) return from_right ? make_tuple({"", "", s}) : make_tuple({s, "", ""});
  return make_tuple({s.substr(0, at), mark, s.substr(at + mark.size())});
}
inline value affix_method(std::string_view s, const arguments& a, bool start) {
  const auto [affix] = a.bind(start ? "startswith" : "endswith", {"prefix"}, 1);
  const auto* several = as_sequence(*affix);
  const auto is = [&](const value& v) {
    const std::string& part = need_text(v, "startswith or endswith");
    return start ? s.starts_with(part) : s.ends_with(part);
  };
  if (several && several->kind == sequence_kind::tuple)
    return std::any_of(several->items.begin(), several->items.end(), is);
  return is(*affix);
}
inline value without_affix(std::string_view s, const arguments& a, bool start) {
  const auto [affix] = a.bind(start ? "removeprefix" : "removesuffix", {"affix"}, 1);
  const std::string& part = need_text(*affix, "removeprefix or removesuffix");
  if (start ? s.starts_with(part) : s.ends_with(part))
    s = start ? s.substr(part.size()) : s.substr(0, s.size() - part.size());
  return std::string(s);
}
inline value find_method(const std::string& s, const arguments& a, bool from_right) {
  const auto [part] = a.bind("find", {"sub"}, 1);
  const std::size_t at = from_right ? s.rfind(need_text(*part, "find")) : s.find(need_text(*part, "find"));
  return at == s.npos ? std::int64_t{-1} : static_cast<std::int64_t>(length(std::string_view(s).substr(0, at)));
}
inline value replace_method(const std::string& s, const arguments& a) {
  const auto [from, to, most] = a.bind("replace", {"old", "new", "count"}, 2);
  const std::string &old = need_text(*from, "replace"), &fresh = need_text(*to, "replace");
  if (!old.empty()) need_room(fresh.size(), occurrences(s, old));
  return replace(s, old, fresh, most ? need_int(*most, "replace") : -1);
}
inline std::string join(const std::string& separator, const std::vector<value>& items,
                        const std::string& (*text_of)(const value&)) {
  std::string out;
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (i > 0) out += separator;
    out += text_of(items[i]);
    need_room(out.size(), 1);
  }
  return out;
}
/// str.format with fields {}, {0} and {name}.
inline value format_method(const std::string& s, const arguments& a) {
  std::string out;
  std::size_t next = 0;
  for (std::size_t i = 0; i < s.size(); ++i) {
    if (s[i] != '{' && s[i] != '}') {
      out += s[i];
      continue;
    }
    if (i + 1 < s.size() && s[i + 1] == s[i]) {
      out += s[i++];
      continue;
    }
    const std::size_t end = s.find('}', i);
    require(s[i] == '{' && end != s.npos, "format: a brace alone");
    const std::string field = s.substr(i + 1, end - i - 1);
    const auto plain = [](char c) {
      return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
    };
    require(std::all_of(field.begin(), field.end(), plain),
            "format: fields other than {}, {0} and {name} are not supported");
    const value* v = nullptr;
    if (field.empty() || (field[0] >= '0' && field[0] <= '9')) {
      const auto n = field.empty() ? static_cast<std::int64_t>(next++) : parse_int(field).value_or(-1);
      if (n >= 0 && n < std::ssize(a.positional)) v = &a.positional[static_cast<std::size_t>(n)];
    } else {
      for (const auto& [name, x] : a.named)
        if (name == field) v = &x;
    }
    require(v != nullptr, "format: there is no argument for a field");
    require(!as<text>(*v) || !as<text>(*v)->safe, "format: not supported for what the filter safe gives");
    out += str(*v);
    need_room(out.size(), 1);
    i = end;
  }
  return out;
}

using text_method = value (*)(const std::string&, const arguments&);
inline const std::map<std::string_view, text_method>& text_methods() {
  using text = const std::string&;
  using given = const arguments&;
  static const std::map<std::string_view, text_method> all = {
      {"strip", [](text s, given a) { return strip_method(s, a, side::both); }},
      {"lstrip", [](text s, given a) { return strip_method(s, a, side::left); }},
      {"rstrip", [](text s, given a) { return strip_method(s, a, side::right); }},
      {"split", [](text s, given a) { return split_method(s, a, false); }},
      {"rsplit", [](text s, given a) { return split_method(s, a, true); }},
      {"splitlines",
       [](text s, given a) {
         const auto [ends] = a.bind("splitlines", {"keepends"});
         return texts(split_lines(s, ends && truth(*ends)));
       }},
      {"partition", [](text s, given a) { return partition_method(s, a, false); }},
      {"rpartition", [](text s, given a) { return partition_method(s, a, true); }},
      {"startswith", [](text s, given a) { return affix_method(s, a, true); }},
      {"endswith", [](text s, given a) { return affix_method(s, a, false); }},
      {"removeprefix", [](text s, given a) { return without_affix(s, a, true); }},
      {"removesuffix", [](text s, given a) { return without_affix(s, a, false); }},
      {"find", [](text s, given a) { return find_method(s, a, false); }},
      {"rfind", [](text s, given a) { return find_method(s, a, true); }},
      {"index",
       [](text s, given a) {
         value at = find_method(s, a, false);
         require(!equal(at, std::int64_t{-1}), "index: the text is not there");
         return at;
       }},
      {"count",
       [](text s, given a) {
         const auto [part] = a.bind("count", {"sub"}, 1);
         return value(static_cast<std::int64_t>(occurrences(s, need_text(*part, "count"))));
       }},
      {"replace", [](text s, given a) { return replace_method(s, a); }},
      {"upper", [](text s, given a) { return a.need_none("upper"), value(upper(s)); }},
      {"lower", [](text s, given a) { return a.need_none("lower"), value(lower(s)); }},
      {"capitalize", [](text s, given a) { return a.need_none("capitalize"), value(capitalized(s)); }},
      {"title",
       [](text s, given a) {
         return a.need_none("title"), value(titled(s, [](char, bool letter) { return !letter; }));
       }},
      {"join",
       [](text s, given a) {
         const auto [items] = a.bind("join", {"iterable"}, 1);
         return value(join(s, elements(*items),
                           [](const value& v) -> const std::string& { return need_text(v, "join"); }));
       }},
      {"format", [](text s, given a) { return format_method(s, a); }},
      {"isdigit",
       [](text s, given a) {
         a.need_none("isdigit");
         require(is_ascii(s), "isdigit of characters beyond ASCII is not supported");
         return value(!s.empty() &&
                      std::all_of(s.begin(), s.end(), [](char c) { return c >= '0' && c <= '9'; }));
       }},
  };
  return all;
}

/// Whether Python's type has this attribute, though it is not supported here.
inline bool is_python_attribute(const value& v, std::string_view name) {
  static const std::map<std::string_view, std::string_view> all = {
      {"str",
       " casefold center encode expandtabs format_map isalnum isalpha isascii isdecimal isidentifier islower "
       "isnumeric isprintable isspace istitle isupper ljust maketrans rindex rjust swapcase translate zfill "},
      {"list", " append clear copy extend insert pop remove reverse sort "},
      {"dict", " clear copy fromkeys pop popitem setdefault update "},
      {"range", " count index start stop step "},
      {"dict view", " isdisjoint mapping "},
      {"int",
       " as_integer_ratio bit_count bit_length conjugate denominator from_bytes imag is_integer numerator "
       "real to_bytes "},
      {"float", " as_integer_ratio conjugate fromhex hex imag is_integer real "},
      {"generator", " close gi_code gi_frame gi_running gi_suspended gi_yieldfrom send throw "},
  };
  if (as_callable(v) || name.starts_with("__")) return true;
  const auto at = all.find(as<bool>(v) ? "int" : type_name(v));
  return at != all.end() && at->second.find(" " + std::string(name) + " ") != std::string_view::npos;
}

inline value loop_attribute(const loop_state& l, std::string_view name) {
  const auto at = static_cast<std::int64_t>(l.at), size = std::ssize(l.items);
  if (name == "index") return at + 1;
  if (name == "index0") return at;
  if (name == "revindex") return size - at;
  if (name == "revindex0") return size - at - 1;
  if (name == "first") return at == 0;
  if (name == "last") return at + 1 == size;
  if (name == "length") return size;
  if (name == "depth") return std::int64_t{1};
  if (name == "depth0") return std::int64_t{0};
  if (name == "previtem") return at > 0 ? l.items[l.at - 1] : missing("there is no previous item");
  if (name == "nextitem") return at + 1 < size ? l.items[l.at + 1] : missing("there is no next item");
  fail("loop.", name, " is not supported");
}

}  // namespace detail

/// A method of a value, or null: what `v.name` is where `v` has no such key.
inline const value* find_attribute(const value& v, std::string_view name, value& place) {
  const auto* s = as_sequence(v);
  const bool indexed = s && (s->kind == sequence_kind::list || s->kind == sequence_kind::tuple);
  const bool known =
      (as_text(v) && detail::text_methods().contains(name)) ||
      (as_mapping(v) && (name == "get" || name == "items" || name == "keys" || name == "values")) ||
      (indexed && (name == "index" || name == "count")) || (as<const loop_state*>(v) && name == "cycle");
  if (known) return &(place = make_method(v, name));
  if (const auto* n = as_namespace(v)) {
    for (const auto& [key, x] : n->attributes)
      if (key == name) {
        require(!name.starts_with('_'), "the attribute ", name, " of a namespace is private");
        return &(place = x);
      }
  } else if (const auto* l = as<const loop_state*>(v)) {
    return &(place = detail::loop_attribute(**l, name));
  }
  if (detail::is_python_attribute(v, name))
    fail("the attribute ", name, " of a value of type ", type_name(v), " is not supported");
  return nullptr;
}

inline value no_attribute(const value& v, std::string_view name) {
  return missing("a value of type " + std::string(type_name(v)) + " has no " + std::string(name.substr(0, 60)));
}

/// v.name: an attribute of Python's, else the element under that key.
inline value get_attribute(const value& v, std::string_view name) {
  if (is_undefined(v)) not_for(v, name);
  value place;
  if (const value* x = find_attribute(v, name, place)) return *x;
  if (const auto* m = as_mapping(v))
    if (const value* x = find(*m, std::string(name))) return *x;
  return no_attribute(v, name);
}

/// v[key]: an element, else the attribute of that name.
inline value get_item(const value& v, const value& key) {
  if (is_undefined(v)) not_for(v, "an element");
  if (const auto* m = as_mapping(v)) {
    if (const value* x = find(*m, key)) return *x;
  } else if (const auto i = as_int(key)) {
    const auto* s = as_sequence(v);
    if (as_text(v)) {
      const std::u32string points = code_points(need_text(v, "an element"));
      const auto at = *i < 0 ? *i + std::ssize(points) : *i;
      if (at >= 0 && at < std::ssize(points)) return utf8({&points[static_cast<std::size_t>(at)], 1});
    } else if (s && s->kind != sequence_kind::view) {
      const auto at = *i < 0 ? *i + std::ssize(s->items) : *i;
      if (at >= 0 && at < std::ssize(s->items)) return s->items[static_cast<std::size_t>(at)];
    }
  }
  if (!as_text(key)) return no_attribute(v, "such element");
  value place;
  const value* x = find_attribute(v, need_text(key, "an element"), place);
  return x ? *x : no_attribute(v, *as_text(key));
}

/// self.name(arguments)
inline value call_method(const value& self, std::string_view name, const arguments& a) {
  if (as_text(self)) return detail::text_methods().at(name)(need_text(self, name), a);
  if (const auto* m = as_mapping(self)) {
    if (name == "get") {
      const auto [key, otherwise] = a.bind(name, {"key", "default"}, 1);
      require(a.named.empty(), "get: takes no arguments by name");
      const value* there = contains(self, *key) ? find(*m, *key) : otherwise;
      return there ? *there : none();
    }
    a.need_none(name);
    std::vector<value> out;
    for (const auto& [key, x] : m->items)
      out.push_back(name == "keys" ? key : name == "values" ? x : make_tuple({key, x}));
    return make_sequence(sequence_kind::view, std::move(out));
  }
  if (const auto* l = as<const loop_state*>(self)) {
    require(a.named.empty() && !a.positional.empty(), "loop.cycle: values are missing");
    return a.positional[(*l)->at % a.positional.size()];
  }
  const auto& items = as_sequence(self)->items;
  const auto [x] = a.bind(name, {"value"}, 1);
  const auto is = [&, x = x](const value& y) { return equal(*x, y); };
  if (name == "count") return static_cast<std::int64_t>(std::count_if(items.begin(), items.end(), is));
  const auto at = std::find_if(items.begin(), items.end(), is);
  require(at != items.end(), "index: the value is not in the list");
  return static_cast<std::int64_t>(at - items.begin());
}

}  // namespace program::jinja
