#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "text.hpp"

namespace program::jinja {

struct value;
struct scope;
struct macro;
struct loop_state;
struct sequence;
struct mapping;
struct stream;
struct callable;
struct name_space;

struct none {};

/// What stands for something that is not there: empty where it is printed, the error `why` in most operations.
struct undefined {
  std::shared_ptr<const std::string> why;
};

struct text {
  std::shared_ptr<const std::string> bytes;
  bool safe = false;  ///< of the filter `safe`: to be printed; its operators, which escape HTML, are refused
};

template <class T, class... Ts>
concept one_of = (std::is_same_v<T, Ts> || ...);

/// A value of a template, with Python's meaning. All but namespaces and streams are immutable, as
/// jinja2's ImmutableSandboxedEnvironment has them.
struct value {
  using list_pointer = std::shared_ptr<const sequence>;
  using dict_pointer = std::shared_ptr<const mapping>;
  using stream_pointer = std::shared_ptr<stream>;
  using function_pointer = std::shared_ptr<const callable>;
  using namespace_pointer = std::shared_ptr<name_space>;
  std::variant<undefined, none, bool, std::int64_t, double, text, list_pointer, dict_pointer, stream_pointer,
               function_pointer, namespace_pointer, const loop_state*>
      data;

  value() : data(none()) {}
  value(std::string x, bool safe = false)
      : data(text{std::make_shared<const std::string>(std::move(x)), safe}) {}
  value(const char* x) : value(std::string(x)) {}
  template <one_of<undefined, none, bool, std::int64_t, double, list_pointer, dict_pointer, stream_pointer,
                   function_pointer, namespace_pointer, const loop_state*>
                T>
  value(T x) : data(std::in_place_type<T>, std::move(x)) {}
};

inline value missing(std::string why) { return undefined{std::make_shared<const std::string>(std::move(why))}; }

/// What a value costs to print, compare and destroy, however often it shares its elements; more is refused. A value
/// that holds a macro, a loop or a namespace is local: it dies with the block it is made in, or is part of a cycle
/// if a namespace holds it, so none does.
struct extent {
  static constexpr std::size_t deepest = 100, heaviest = std::size_t{1} << 24, most_keys = 1024;
  std::size_t weight = 16, depth = 0;
  bool local = false;
  void add(const value& v);
};

enum class sequence_kind { list, tuple, range, view };

struct sequence {
  sequence_kind kind;
  std::vector<value> items;
  extent size;
};
struct mapping {
  std::vector<std::pair<value, value>> items;  ///< in the order in which keys came, as a dict has them
  extent size;
};
/// A Python generator: its elements come once.
struct stream {
  std::vector<value> items;
  extent size;
  std::size_t next = 0;
};
/// A function by its name, a method of a value, or a macro with the scope it was defined in.
struct callable {
  std::string name;
  value self = none();
  const macro* body = nullptr;
  scope* closure = nullptr;
  bool method = false;
  extent size = {};
};
struct name_space {
  std::vector<std::pair<std::string, value>> attributes;
};

template <class T>
const T* as(const value& v) {
  return std::get_if<T>(&v.data);
}
inline const std::string* as_text(const value& v) {
  const text* t = as<text>(v);
  return t ? t->bytes.get() : nullptr;
}
inline const sequence* as_sequence(const value& v) {
  const auto* s = as<value::list_pointer>(v);
  return s ? s->get() : nullptr;
}
inline const mapping* as_mapping(const value& v) {
  const auto* m = as<value::dict_pointer>(v);
  return m ? m->get() : nullptr;
}
inline stream* as_stream(const value& v) {
  const auto* s = as<value::stream_pointer>(v);
  return s ? s->get() : nullptr;
}
inline const callable* as_callable(const value& v) {
  const auto* c = as<value::function_pointer>(v);
  return c ? c->get() : nullptr;
}
inline name_space* as_namespace(const value& v) {
  const auto* n = as<value::namespace_pointer>(v);
  return n ? n->get() : nullptr;
}
inline bool is_undefined(const value& v) { return as<undefined>(v) != nullptr; }
inline bool is_none(const value& v) { return as<none>(v) != nullptr; }

inline extent extent_of(const value& v) {
  if (const auto* t = as_text(v)) return {16 + t->size()};
  if (const auto* s = as_sequence(v)) return s->size;
  if (const auto* m = as_mapping(v)) return m->size;
  if (const auto* s = as_stream(v)) return s->size;
  if (const auto* c = as_callable(v)) return c->size;
  return {.local = as<value::namespace_pointer>(v) || as<const loop_state*>(v)};
}
inline void extent::add(const value& v) {
  const extent other = extent_of(v);
  weight += other.weight;
  depth = std::max(depth, other.depth + 1);
  local = local || other.local;
  require(weight <= heaviest, "a value of more than ", heaviest >> 20, " MiB");
  require(depth <= deepest, "values nested more than ", deepest, " deep");
}

inline value make_sequence(sequence_kind kind, std::vector<value> items) {
  extent size;
  for (const auto& x : items) size.add(x);
  return std::make_shared<const sequence>(sequence{kind, std::move(items), size});
}
inline value make_list(std::vector<value> items) {
  return make_sequence(sequence_kind::list, std::move(items));
}
inline value make_tuple(std::vector<value> items) {
  return make_sequence(sequence_kind::tuple, std::move(items));
}
inline value make_stream(std::vector<value> items) {
  extent size;
  for (const auto& x : items) size.add(x);
  return std::make_shared<stream>(stream{std::move(items), size});
}
inline value make_method(const value& self, std::string_view name) {
  extent size;
  size.add(self);
  return std::make_shared<const callable>(callable{std::string(name), self, nullptr, nullptr, true, size});
}

/// What Python calls its type.
inline std::string_view type_name(const value& v) {
  static constexpr std::string_view names[] = {"undefined", "None",     "bool",      "int",
                                               "float",     "str",      "list",      "dict",
                                               "generator", "function", "namespace", "loop"};
  if (const auto* s = as_sequence(v)) {
    static constexpr std::string_view kinds[] = {"list", "tuple", "range", "dict view"};
    return kinds[static_cast<std::size_t>(s->kind)];
  }
  return names[v.data.index()];
}
/// Throws that `what` is not for a value of this type; what is undefined says why it is.
template <class... What>
[[noreturn]] void not_for(const value& v, const What&... what) {
  if (const auto* u = as<undefined>(v)) fail(*u->why);
  fail(what..., ": not for a value of type ", type_name(v));
}

/// The text of a str; `what` needs it.
inline const std::string& need_text(const value& v, std::string_view what) {
  const text* t = as<text>(v);
  if (!t) not_for(v, what);
  require(!t->safe, what, ": not supported for what the filter safe gives");
  return *t->bytes;
}
inline std::int64_t need_int(const value& v, std::string_view what) {
  if (const auto* i = as<std::int64_t>(v)) return *i;
  if (const auto* b = as<bool>(v)) return *b;
  not_for(v, what);
}

inline bool truth(const value& v) {
  if (is_undefined(v) || is_none(v)) return false;
  if (const auto* b = as<bool>(v)) return *b;
  if (const auto* i = as<std::int64_t>(v)) return *i != 0;
  if (const auto* d = as<double>(v)) return *d != 0;
  if (const auto* t = as_text(v)) return !t->empty();
  if (const auto* s = as_sequence(v)) return !s->items.empty();
  if (const auto* m = as_mapping(v)) return !m->items.empty();
  return true;
}

/// A bool, int or float; long double has both of their mantissas.
inline const long double* as_number(const value& v, long double& place) {
  if (const auto* b = as<bool>(v)) return &(place = *b);
  if (const auto* i = as<std::int64_t>(v)) return &(place = static_cast<long double>(*i));
  if (const auto* d = as<double>(v)) return &(place = *d);
  return nullptr;
}

/// Python's ==.
inline bool equal(const value& a, const value& b) {
  long double x = 0, y = 0;
  if (as_number(a, x) && as_number(b, y)) return x == y;
  if (a.data.index() != b.data.index()) return false;
  if (const auto* t = as_text(a)) return *t == *as_text(b);
  if (const auto* s = as_sequence(a)) {
    const auto* other = as_sequence(b);
    require(s->kind != sequence_kind::view || s == other, "comparing views of a dict is not supported");
    return s->kind == other->kind &&
           std::equal(s->items.begin(), s->items.end(), other->items.begin(), other->items.end(), equal);
  }
  if (const auto* m = as_mapping(a)) {
    const auto* other = as_mapping(b);
    return m->items.size() == other->items.size() &&
           std::all_of(m->items.begin(), m->items.end(), [&](const auto& mine) {
             return std::any_of(other->items.begin(), other->items.end(), [&](const auto& theirs) {
               return equal(mine.first, theirs.first) && equal(mine.second, theirs.second);
             });
           });
  }
  if (const auto* c = as_callable(a)) fail("comparing functions, as ", c->name, ", is not supported");
  if (as_stream(a)) return as_stream(a) == as_stream(b);
  if (const auto* n = as_namespace(a)) return n == as_namespace(b);
  if (const auto* l = as<const loop_state*>(a)) return *l == *as<const loop_state*>(b);
  return true;  // both undefined or both None
}

/// Python's <, <=, > or >=, which `op` is for whatever type.
template <class Op>
bool ordered(const value& a, const value& b, Op op) {
  long double x = 0, y = 0;
  if (as_number(a, x) && as_number(b, y)) return op(x, y);
  if (is_undefined(a) || is_undefined(b)) not_for(is_undefined(a) ? a : b, "comparison");
  if (as_text(a) && as_text(b)) return op(as_text(a)->compare(*as_text(b)), 0);
  const sequence *s = as_sequence(a), *t = as_sequence(b);
  if (!s || !t || s->kind != t->kind || s->kind == sequence_kind::range || s->kind == sequence_kind::view)
    fail("values of types ", type_name(a), " and ", type_name(b), " have no order");
  for (std::size_t i = 0; i < s->items.size() && i < t->items.size(); ++i)
    if (!equal(s->items[i], t->items[i])) return ordered(s->items[i], t->items[i], op);
  return op(s->items.size(), t->items.size());
}

inline const value* find(const mapping& m, const value& key) {
  for (const auto& [k, v] : m.items)
    if (equal(k, key)) return &v;
  return nullptr;
}
/// Throws for what a dict, or a set, cannot look up.
inline void need_hashable(const value& v, std::string_view what) {
  const auto* s = as_sequence(v);
  if (as_mapping(v) || (s && (s->kind == sequence_kind::list || s->kind == sequence_kind::view)))
    not_for(v, what);
  if (s && s->kind == sequence_kind::tuple)
    for (const auto& x : s->items) need_hashable(x, what);
}
/// A dict; of a key given twice the later value stays, where the earlier was.
inline value make_mapping(std::vector<std::pair<value, value>> items) {
  mapping out;
  require(items.size() <= extent::most_keys, "a dict of more than ", extent::most_keys, " keys");
  for (auto& [key, v] : items) {
    need_hashable(key, "a key of a dict");
    if (const value* there = find(out, key)) {
      *const_cast<value*>(there) = std::move(v);
    } else {
      out.items.emplace_back(std::move(key), std::move(v));
    }
  }
  for (const auto& [k, v] : out.items) out.size.add(k), out.size.add(v);
  return std::make_shared<const mapping>(std::move(out));
}

std::string repr(const value& v);

/// Python's str.
inline std::string str(const value& v) {
  if (is_undefined(v)) return {};
  if (is_none(v)) return "None";
  if (const auto* b = as<bool>(v)) return *b ? "True" : "False";
  if (const auto* i = as<std::int64_t>(v)) return std::to_string(*i);
  if (const auto* d = as<double>(v)) return float_text(*d);
  if (const auto* t = as_text(v)) return *t;
  std::string out;
  const auto comma = [&] { return out.size() > 1 ? ", " : ""; };
  if (const auto* m = as_mapping(v)) {
    out = "{";
    for (const auto& [key, x] : m->items) (((out += comma()) += repr(key)) += ": ") += repr(x);
    return out + "}";
  }
  const auto* s = as_sequence(v);
  if (!s || s->kind == sequence_kind::range || s->kind == sequence_kind::view)
    fail("printing a value of type ", type_name(v), " is not supported");
  const bool tuple = s->kind == sequence_kind::tuple;
  out = tuple ? "(" : "[";
  for (const auto& x : s->items) (out += comma()) += repr(x);
  if (tuple && s->items.size() == 1) out += ",";
  return out + (tuple ? ")" : "]");
}
/// Python's repr.
inline std::string repr(const value& v) {
  if (is_undefined(v)) return "Undefined";
  return as<text>(v) ? repr_text(need_text(v, "repr")) : str(v);
}

/// The elements that a Python for loop meets; a stream has none left then.
inline std::vector<value> elements(const value& v) {
  if (is_undefined(v)) return {};
  if (const auto* s = as_sequence(v)) return s->items;
  std::vector<value> out;
  if (const auto* t = as_text(v)) {
    need_text(v, "iteration");
    for (const char32_t c : code_points(*t)) out.emplace_back(utf8(std::u32string_view(&c, 1)));
  } else if (const auto* m = as_mapping(v)) {
    for (const auto& item : m->items) out.push_back(item.first);
  } else if (auto* s = as_stream(v)) {
    out.assign(s->items.begin() + static_cast<std::ptrdiff_t>(s->next), s->items.end());
    s->next = s->items.size();
  } else {
    not_for(v, "iteration");
  }
  return out;
}

/// Python's `x in v`.
inline bool contains(const value& v, const value& x) {
  if (as_text(v)) return need_text(v, "in").find(need_text(x, "in")) != std::string::npos;
  if (const auto* m = as_mapping(v)) return need_hashable(x, "a key of a dict"), find(*m, x) != nullptr;
  if (const auto* s = as_sequence(v); s && s->kind == sequence_kind::view) need_hashable(x, "in");
  if (auto* s = as_stream(v)) {
    while (s->next < s->items.size())
      if (equal(x, s->items[s->next++])) return true;
    return false;
  }
  const std::vector<value> items = elements(v);
  return std::any_of(items.begin(), items.end(), [&](const value& y) { return equal(x, y); });
}

}  // namespace program::jinja
