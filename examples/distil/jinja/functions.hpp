#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "arguments.hpp"
#include "json.hpp"
#include "members.hpp"

/// Jinja's filters and tests.
namespace program::jinja {

value apply_filter(std::string_view name, const value& v, const arguments& a);
bool apply_test(std::string_view name, const value& v, const arguments& a);

namespace detail {

/// The str of a value to which filters of text are applied.
inline std::string soft_text(const value& v, std::string_view filter) {
  return as<text>(v) ? need_text(v, filter) : str(v);
}
inline bool flag(const value* v) { return v && truth(*v); }

inline value count_of(const value& v) {
  if (is_undefined(v)) return std::int64_t{0};
  if (as_text(v)) return static_cast<std::int64_t>(length(*as_text(v)));
  if (const auto* s = as_sequence(v)) return std::ssize(s->items);
  if (const auto* m = as_mapping(v)) return std::ssize(m->items);
  if (const auto* l = as<const loop_state*>(v)) return std::ssize((*l)->items);
  not_for(v, "length");
}

/// The element of an element that `path` names ("a.b.0"); the value itself where it is null or None.
inline value at_path(value v, const value* path, const value* otherwise = nullptr) {
  if (!path || is_none(*path)) return v;
  require(!as_namespace(v), "a namespace in a filter is not supported");
  const auto step = [&](const value& key) {
    v = get_item(v, key);
    if (otherwise && !is_none(*otherwise) && is_undefined(v)) v = *otherwise;
  };
  if (!as_text(*path)) return step(*path), v;
  for (const auto& part : split(need_text(*path, "attribute"), ".", -1)) {
    const bool number =
        !part.empty() && std::all_of(part.begin(), part.end(), [](char c) { return c >= '0' && c <= '9'; });
    require(is_ascii(part) || !number, "an attribute's number");
    step(number ? value(parse_int(part).value()) : value(part));
  }
  return v;
}
/// What values are compared by: case ignored unless said otherwise.
inline value sort_key(const value& v, const value* path, bool case_sensitive) {
  value key = at_path(v, path);
  if (const auto* d = as<double>(key)) require(!std::isnan(*d), "sorting nan is not supported");
  return !case_sensitive && as_text(key) ? value(lower(need_text(key, "sort"))) : key;
}
inline void sort_by(std::vector<std::pair<value, value>>& keyed, bool reverse) {
  std::stable_sort(keyed.begin(), keyed.end(), [&](const auto& a, const auto& b) {
    return reverse ? compare("<", b.first, a.first) : compare("<", a.first, b.first);
  });
}
inline std::vector<value> seconds(const std::vector<std::pair<value, value>>& keyed) {
  std::vector<value> out;
  for (const auto& k : keyed) out.push_back(k.second);
  return out;
}

inline value sort_filter(const value& v, const arguments& a) {
  const auto [reverse, case_sensitive, path] = a.bind("sort", {"reverse", "case_sensitive", "attribute"});
  require(!path || !as_text(*path) || as_text(*path)->find(',') == std::string::npos,
          "sort by several attributes is not supported");
  std::vector<std::pair<value, value>> keyed;
  for (const auto& x : elements(v)) keyed.emplace_back(sort_key(x, path, flag(case_sensitive)), x);
  sort_by(keyed, flag(reverse));
  return make_list(seconds(keyed));
}
inline value dictsort_filter(const value& v, const arguments& a) {
  const auto [case_sensitive, by, reverse] = a.bind("dictsort", {"case_sensitive", "by", "reverse"});
  const auto* m = as_mapping(v);
  if (!m) not_for(v, "dictsort");
  const std::string what = by ? need_text(*by, "dictsort") : "key";
  require(what == "key" || what == "value", "dictsort: by is key or value");
  std::vector<std::pair<value, value>> keyed;
  for (const auto& [key, x] : m->items)
    keyed.emplace_back(sort_key(what == "key" ? key : x, nullptr, flag(case_sensitive)), make_tuple({key, x}));
  sort_by(keyed, flag(reverse));
  return make_list(seconds(keyed));
}
inline value unique_filter(const value& v, const arguments& a) {
  const auto [case_sensitive, path] = a.bind("unique", {"case_sensitive", "attribute"});
  std::vector<value> keys, out;
  for (const auto& x : elements(v)) {
    value key = sort_key(x, path, flag(case_sensitive));
    need_hashable(key, "unique");
    if (std::any_of(keys.begin(), keys.end(), [&](const value& k) { return equal(k, key); })) continue;
    require(keys.size() < extent::most_keys, "unique: more than ", extent::most_keys, " values");
    keys.push_back(std::move(key));
    out.push_back(x);
  }
  return make_stream(std::move(out));
}
inline value extreme(const value& v, const arguments& a, bool largest) {
  const auto [case_sensitive, path] = a.bind(largest ? "max" : "min", {"case_sensitive", "attribute"});
  const std::vector<value> items = elements(v);
  if (items.empty()) return missing("there is no least or largest of nothing");
  const value* best = nullptr;
  value best_key;
  for (const auto& x : items) {
    value key = sort_key(x, path, flag(case_sensitive));
    if (best && !(largest ? compare(">", key, best_key) : compare("<", key, best_key))) continue;
    best = &x;
    best_key = std::move(key);
  }
  return *best;
}
inline value sum_filter(const value& v, const arguments& a) {
  const auto [path, start] = a.bind("sum", {"attribute", "start"});
  value out = start ? *start : value(std::int64_t{0});
  require(!as_text(out), "sum: the start is a text");
  for (const auto& x : elements(v)) out = arithmetic("+", out, at_path(x, path));
  return out;
}

/// map: an attribute of each, or a filter over each.
inline value map_filter(const value& v, const arguments& a) {
  if (!truth(v)) return make_stream({});
  std::vector<value> out;
  if (a.positional.empty()) {
    const auto [path, otherwise] = a.bind("map", {"attribute", "default"}, 1);
    for (const auto& x : elements(v)) out.push_back(at_path(x, path, otherwise));
  } else {
    const std::string& name = need_text(a.positional[0], "map");
    const arguments rest{{a.positional.begin() + 1, a.positional.end()}, a.named};
    for (const auto& x : elements(v)) out.push_back(apply_filter(name, x, rest));
  }
  return make_stream(std::move(out));
}
/// select, reject, selectattr, rejectattr: by a test, or by truth.
inline value select_filter(const value& v, const arguments& a, bool wanted, bool of_attribute) {
  if (!truth(v)) return make_stream({});
  require(!of_attribute || !a.positional.empty(), "selectattr: the attribute is missing");
  const std::size_t skip = of_attribute ? 1 : 0;
  const value* test = a.positional.size() > skip ? &a.positional[skip] : nullptr;
  require(test || a.named.empty(), "select: an argument by name without a test");
  const auto after = static_cast<std::ptrdiff_t>(skip + 1);
  const arguments rest =
      test ? arguments{{a.positional.begin() + after, a.positional.end()}, a.named} : arguments();
  std::vector<value> out;
  for (const auto& x : elements(v)) {
    const value what = at_path(x, of_attribute ? &a.positional[0] : nullptr);
    if ((test ? apply_test(need_text(*test, "select"), what, rest) : truth(what)) == wanted) out.push_back(x);
  }
  return make_stream(std::move(out));
}

inline value batch_filter(const value& v, const arguments& a) {
  const auto [count, fill] = a.bind("batch", {"linecount", "fill_with"}, 1);
  const std::int64_t n = need_int(*count, "batch");
  require(n > 0 && n <= 1 << 16, "batch: ", n, " in a row");
  std::vector<value> out, row;
  for (const auto& x : elements(v)) {
    if (std::ssize(row) == n) out.push_back(make_list(std::exchange(row, {})));
    row.push_back(x);
  }
  if (!row.empty()) {
    if (fill && !is_none(*fill)) row.resize(static_cast<std::size_t>(n), *fill);
    out.push_back(make_list(std::move(row)));
  }
  return make_stream(std::move(out));
}
inline value reverse_filter(const value& v) {
  if (as_text(v)) {
    std::u32string points = code_points(need_text(v, "reverse"));
    std::reverse(points.begin(), points.end());
    return utf8(points);
  }
  std::vector<value> items = elements(v);
  std::reverse(items.begin(), items.end());
  return as_stream(v) ? make_list(std::move(items)) : make_stream(std::move(items));
}
inline value end_of(const value& v, bool first) {
  auto* s = as_stream(v);
  if (s && first) return s->next < s->items.size() ? s->items[s->next++] : missing("there is no first item");
  if (s) not_for(v, "last");
  const std::vector<value> items = elements(v);
  if (items.empty()) return missing("there is no item: the sequence is empty");
  return first ? items.front() : items.back();
}
inline value indent_filter(const value& v, const arguments& a) {
  const auto [width, first, blank] = a.bind("indent", {"width", "first", "blank"});
  std::string by(4, ' ');
  if (width && as_text(*width)) {
    by = need_text(*width, "indent");
  } else if (width) {
    const std::int64_t n = need_int(*width, "indent");
    require(n <= 1000, "indent: by ", n);
    by = std::string(static_cast<std::size_t>(std::max<std::int64_t>(n, 0)), ' ');
  }
  const std::vector<std::string> lines = split_lines(need_text(v, "indent") + "\n");
  need_room(by.size() + 1, lines.size());
  std::string out = flag(first) ? by : "";
  for (std::size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) out += "\n";
    if (i > 0 && (flag(blank) || !lines[i].empty())) out += by;
    out += lines[i];
  }
  return out;
}
inline value int_filter(const value& v, const arguments& a) {
  const auto [otherwise, base] = a.bind("int", {"default", "base"});
  require(!base || equal(*base, std::int64_t{10}), "int with a base is not supported");
  if (is_undefined(v)) not_for(v, "int");
  std::optional<double> real;
  if (as_text(v)) {
    if (const auto x = parse_int(need_text(v, "int"))) return *x;
    real = parse_float(*as_text(v));
  } else {
    if (const auto x = as_int(v)) return *x;
    real = as_real(v);
  }
  if (!real || !std::isfinite(*real)) return otherwise ? *otherwise : value(std::int64_t{0});
  require(std::abs(*real) < 9e18, "an integer beyond 64 bits");
  return static_cast<std::int64_t>(*real);
}
inline value float_filter(const value& v, const arguments& a) {
  const auto [otherwise] = a.bind("float", {"default"});
  if (is_undefined(v)) not_for(v, "float");
  const auto real = as_text(v) ? parse_float(need_text(v, "float")) : as_real(v);
  return real ? *real : otherwise ? *otherwise : value(0.0);
}
inline value join_filter(const value& v, const arguments& a) {
  const auto [separator, path] = a.bind("join", {"d", "attribute"});
  std::string out;
  bool first = true;
  const std::string between = separator ? str(*separator) : "";
  for (const auto& x : elements(v)) {
    if (!std::exchange(first, false)) out += between;
    out += str(at_path(x, path));
    need_room(out.size(), 1);
  }
  return out;
}
inline value abs_filter(const value& v) {
  if (const auto i = as_int(v)) return *i < 0 ? signed_value('-', *i) : value(*i);
  if (const auto* d = as<double>(v)) return std::abs(*d);
  not_for(v, "abs");
}

using filter_function = value (*)(const value&, const arguments&);
inline const std::map<std::string_view, filter_function>& filters() {
  using in = const value&;
  using given = const arguments&;
  constexpr auto length_of = [](in v, given a) { return a.need_none("length"), count_of(v); };
  constexpr auto or_default = [](in v, given a) {
    const auto [otherwise, boolean] = a.bind("default", {"default_value", "boolean"});
    const bool use = is_undefined(v) || (flag(boolean) && !truth(v));
    return !use ? v : otherwise ? *otherwise : value("");
  };
  static const std::map<std::string_view, filter_function> all = {
      {"abs", [](in v, given a) { return a.need_none("abs"), abs_filter(v); }},
      {"batch", batch_filter},
      {"capitalize",
       [](in v, given a) { return a.need_none("capitalize"), value(capitalized(soft_text(v, "capitalize"))); }},
      {"count", length_of},
      {"d", or_default},
      {"default", or_default},
      {"dictsort", dictsort_filter},
      {"first", [](in v, given a) { return a.need_none("first"), end_of(v, true); }},
      {"float", float_filter},
      {"indent", indent_filter},
      {"int", int_filter},
      {"items",
       [](in v, given a) {
         a.need_none("items");
         if (is_undefined(v)) return make_stream({});
         if (!as_mapping(v)) not_for(v, "items");
         return make_stream(elements(call_method(v, "items", {})));
       }},
      {"join", join_filter},
      {"last", [](in v, given a) { return a.need_none("last"), end_of(v, false); }},
      {"length", length_of},
      {"list", [](in v, given a) { return a.need_none("list"), make_list(elements(v)); }},
      {"lower", [](in v, given a) { return a.need_none("lower"), value(lower(soft_text(v, "lower"))); }},
      {"map", map_filter},
      {"max", [](in v, given a) { return extreme(v, a, true); }},
      {"min", [](in v, given a) { return extreme(v, a, false); }},
      {"reject", [](in v, given a) { return select_filter(v, a, false, false); }},
      {"rejectattr", [](in v, given a) { return select_filter(v, a, false, true); }},
      {"replace",
       [](in v, given a) {
         const auto [from, to, most] = a.bind("replace", {"old", "new", "count"}, 2);
         arguments plain{{str(*from), str(*to)}, {}};
         if (most && !is_none(*most)) plain.positional.push_back(*most);
         return replace_method(str(v), plain);
       }},
      {"reverse", [](in v, given a) { return a.need_none("reverse"), reverse_filter(v); }},
      {"safe", [](in v, given a) { return a.need_none("safe"), value(str(v), true); }},
      {"select", [](in v, given a) { return select_filter(v, a, true, false); }},
      {"selectattr", [](in v, given a) { return select_filter(v, a, true, true); }},
      {"sort", sort_filter},
      {"string", [](in v, given a) { return a.need_none("string"), as<text>(v) ? v : value(str(v)); }},
      {"sum", sum_filter},
      {"title",
       [](in v, given a) {
         a.need_none("title");
         const auto starts = [](char c, bool) {
           return is_space(static_cast<unsigned char>(c)) ||
                  std::string_view("-({[<").find(c) != std::string_view::npos;
         };
         return value(titled(soft_text(v, "title"), starts));
       }},
      {"tojson", [](in v, given a) { return value(json_writer(a)(v)); }},
      {"trim", [](in v, given a) { return strip_method(soft_text(v, "trim"), a, side::both); }},
      {"unique", unique_filter},
      {"upper", [](in v, given a) { return a.need_none("upper"), value(upper(soft_text(v, "upper"))); }},
  };
  return all;
}

inline bool is_iterable(const value& v) {
  return is_undefined(v) || as_text(v) || as_sequence(v) || as_mapping(v) || as_stream(v) ||
         as<const loop_state*>(v);
}
inline bool same_object(const value& a, const value& b) {
  if (a.data.index() != b.data.index()) return false;
  if (is_none(a)) return true;
  if (const auto* x = as<bool>(a)) return *x == *as<bool>(b);
  fail("sameas of other values than true, false and none is not supported");
}
/// str.islower or isupper.
inline bool in_one_case(const value& v, char first, char other) {
  const std::string s = str(v);
  require(is_ascii(s), "the case of characters beyond ASCII is not supported");
  const auto from = [&](char a) { return [a](char c) { return c >= a && c <= a + 25; }; };
  return std::any_of(s.begin(), s.end(), from(first)) && std::none_of(s.begin(), s.end(), from(other));
}

using test_function = bool (*)(const value&, const arguments&);
inline const std::map<std::string_view, test_function>& tests() {
  using in = const value&;
  using given = const arguments&;
  static const auto with = [](in v, given a, std::string_view op) {
    const auto [other] = a.bind(op, {"other"}, 1);
    return compare(op, v, *other);
  };
  static const auto modulo = [](in v, in by) { return arithmetic("%", v, by); };
  constexpr test_function eq = [](in v, given a) { return with(v, a, "=="); };
  constexpr test_function ne = [](in v, given a) { return with(v, a, "!="); };
  constexpr test_function lt = [](in v, given a) { return with(v, a, "<"); };
  constexpr test_function le = [](in v, given a) { return with(v, a, "<="); };
  constexpr test_function gt = [](in v, given a) { return with(v, a, ">"); };
  constexpr test_function ge = [](in v, given a) { return with(v, a, ">="); };
  static const std::map<std::string_view, test_function> all = {
      {"==", eq},
      {"eq", eq},
      {"equalto", eq},
      {"!=", ne},
      {"ne", ne},
      {"<", lt},
      {"lt", lt},
      {"lessthan", lt},
      {"<=", le},
      {"le", le},
      {">", gt},
      {"gt", gt},
      {"greaterthan", gt},
      {">=", ge},
      {"ge", ge},
      {"in", [](in v, given a) { return with(v, a, "in"); }},
      {"boolean", [](in v, given a) { return a.need_none("boolean"), as<bool>(v) != nullptr; }},
      {"callable",
       [](in v, given a) {
         return a.need_none("callable"), as_callable(v) || is_undefined(v) || as<const loop_state*>(v);
       }},
      {"defined", [](in v, given a) { return a.need_none("defined"), !is_undefined(v); }},
      {"divisibleby",
       [](in v, given a) {
         const auto [by] = a.bind("divisibleby", {"num"}, 1);
         return equal(modulo(v, *by), std::int64_t{0});
       }},
      {"even",
       [](in v, given a) { return a.need_none("even"), equal(modulo(v, std::int64_t{2}), std::int64_t{0}); }},
      {"false", [](in v, given a) { return a.need_none("false"), as<bool>(v) && !*as<bool>(v); }},
      {"float", [](in v, given a) { return a.need_none("float"), as<double>(v) != nullptr; }},
      {"integer", [](in v, given a) { return a.need_none("integer"), as<std::int64_t>(v) != nullptr; }},
      {"iterable", [](in v, given a) { return a.need_none("iterable"), is_iterable(v); }},
      {"lower", [](in v, given a) { return a.need_none("lower"), in_one_case(v, 'a', 'A'); }},
      {"mapping", [](in v, given a) { return a.need_none("mapping"), as_mapping(v) != nullptr; }},
      {"none", [](in v, given a) { return a.need_none("none"), is_none(v); }},
      {"number",
       [](in v, given a) {
         return a.need_none("number"), as<bool>(v) || as<std::int64_t>(v) || as<double>(v);
       }},
      {"odd",
       [](in v, given a) { return a.need_none("odd"), equal(modulo(v, std::int64_t{2}), std::int64_t{1}); }},
      {"sameas",
       [](in v, given a) {
         const auto [other] = a.bind("sameas", {"other"}, 1);
         return same_object(v, *other);
       }},
      {"sequence",
       [](in v, given a) {
         a.need_none("sequence");
         const auto* s = as_sequence(v);
         return is_undefined(v) || as_text(v) || as_mapping(v) || (s && s->kind != sequence_kind::view);
       }},
      {"string", [](in v, given a) { return a.need_none("string"), as_text(v) != nullptr; }},
      {"true", [](in v, given a) { return a.need_none("true"), as<bool>(v) && *as<bool>(v); }},
      {"undefined", [](in v, given a) { return a.need_none("undefined"), is_undefined(v); }},
      {"upper", [](in v, given a) { return a.need_none("upper"), in_one_case(v, 'A', 'a'); }},
  };
  return all;
}

}  // namespace detail

inline bool is_filter(std::string_view name) { return detail::filters().contains(name); }
inline bool is_test(std::string_view name) { return detail::tests().contains(name); }

inline value apply_filter(std::string_view name, const value& v, const arguments& a) {
  const auto at = detail::filters().find(name);
  require(at != detail::filters().end(), "the filter ", name.substr(0, 60), " is not supported");
  return at->second(v, a);
}
inline bool apply_test(std::string_view name, const value& v, const arguments& a) {
  const auto at = detail::tests().find(name);
  require(at != detail::tests().end(), "the test ", name.substr(0, 60), " is not supported");
  return at->second(v, a);
}

}  // namespace program::jinja
