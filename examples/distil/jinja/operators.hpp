#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "value.hpp"

/// Python's operators.
namespace program::jinja {

inline std::optional<std::int64_t> as_int(const value& v) {
  if (const auto* b = as<bool>(v)) return *b;
  if (const auto* i = as<std::int64_t>(v)) return *i;
  return {};
}
inline std::optional<double> as_real(const value& v) {
  if (const auto* d = as<double>(v)) return *d;
  if (const auto i = as_int(v)) return static_cast<double>(*i);
  return {};
}

inline void need_room(std::size_t bytes, std::size_t times) {
  require(bytes == 0 || times <= extent::heaviest / bytes, "a value of more than ", extent::heaviest >> 20,
          " MiB");
}

namespace detail {

inline std::int64_t int_operation(std::string_view op, std::int64_t a, std::int64_t b) {
  std::int64_t out = 0;
  bool beyond = false;
  if (op == "+") {
    beyond = __builtin_add_overflow(a, b, &out);
  } else if (op == "-") {
    beyond = __builtin_sub_overflow(a, b, &out);
  } else if (op == "*") {
    beyond = __builtin_mul_overflow(a, b, &out);
  } else if (op == "**") {
    require(b <= 64 || (a >= -1 && a <= 1), "an integer beyond 64 bits");
    out = 1;
    for (std::int64_t i = b > 64 ? b % 2 : b; i > 0 && !beyond; --i)
      beyond = __builtin_mul_overflow(out, a, &out);
    if (a == 0 && b > 0) out = 0;
  } else {
    require(b != 0, "division by zero");
    if (b == -1) {  // the quotient of the least integer would be beyond
      beyond = op == "//" && __builtin_sub_overflow(std::int64_t{0}, a, &out);
    } else {
      const bool down = a % b != 0 && (a < 0) != (b < 0);
      out = op == "//" ? a / b - down : a % b + (down ? b : 0);
    }
  }
  require(!beyond, "an integer beyond 64 bits");
  return out;
}

inline double real_operation(std::string_view op, double a, double b) {
  if (op == "+") return a + b;
  if (op == "-") return a - b;
  if (op == "*") return a * b;
  if (op == "**") {
    require(a > 0 || (a == 0 && b >= 0) || (a < 0 && b == std::floor(b)), "a power that is not a real number");
    const double out = std::pow(a, b);
    require(std::isfinite(out), "a number out of the range of double precision");
    return out;
  }
  require(b != 0, "division by zero");
  if (op == "/") return a / b;
  double rest = std::fmod(a, b);
  if (rest == 0) {
    rest = std::copysign(0.0, b);
  } else if ((b < 0) != (rest < 0)) {
    rest += b;
  }
  if (op == "%") return rest;
  const double quotient = (a - rest) / b, down = std::floor(quotient);
  if (quotient == 0) return std::copysign(0.0, a / b);
  return quotient - down > 0.5 ? down + 1 : down;
}

/// format % arguments, of %s, %r, %d, %i and %% without flags and widths.
inline std::string percent(std::string_view format, const value& given) {
  const auto* s = as_sequence(given);
  require(!as_mapping(given), "% with a dict is not supported");
  const std::vector<value> one{given};
  const std::vector<value>& values = s && s->kind == sequence_kind::tuple ? s->items : one;
  std::string out;
  std::size_t used = 0;
  for (std::size_t i = 0; i < format.size(); ++i) {
    if (format[i] != '%') {
      out += format[i];
      continue;
    }
    const char kind = ++i < format.size() ? format[i] : '\0';
    if (kind == '%') {
      out += '%';
      continue;
    }
    require(kind == 's' || kind == 'r' || kind == 'd' || kind == 'i',
            "% with other than %s, %r, %d, %i is not supported");
    require(used < values.size(), "too few values for %");
    const value& v = values[used++];
    std::string part;
    if (kind == 's') {
      part = str(v);
    } else if (kind == 'r') {
      part = repr(v);
    } else {
      part = std::to_string(need_int(v, "%d"));
    }
    need_room(part.size() + out.size(), 1);
    out += part;
  }
  require(used == values.size(), "too many values for %");
  return out;
}

}  // namespace detail

/// a op b, for + - * / // % **.
inline value arithmetic(std::string_view op, const value& a, const value& b) {
  if (is_undefined(a) || is_undefined(b)) not_for(is_undefined(a) ? a : b, op);
  const auto *t = as_text(a), *u = as_text(b);
  const auto *s = as_sequence(a), *r = as_sequence(b);
  if (op == "%" && t) return detail::percent(need_text(a, op), b);
  if (op == "+" && t && u) return need_text(a, op) + need_text(b, op);
  const auto joins = [](const sequence* x) {
    return x && (x->kind == sequence_kind::list || x->kind == sequence_kind::tuple);
  };
  if (op == "+" && joins(s) && joins(r) && s->kind == r->kind) {
    std::vector<value> items = s->items;
    items.insert(items.end(), r->items.begin(), r->items.end());
    return make_sequence(s->kind, std::move(items));
  }
  const auto i = as_int(a), j = as_int(b);
  if (op == "*" && ((i && (u || joins(r))) || (j && (t || joins(s))))) {
    if (i) return arithmetic(op, b, a);
    const auto times = static_cast<std::size_t>(std::max<std::int64_t>(*j, 0));
    need_room(extent_of(a).weight, times);
    if (t) {
      std::string out;
      for (std::size_t n = 0; n < times; ++n) out += need_text(a, op);
      return out;
    }
    std::vector<value> items;
    for (std::size_t n = 0; n < times; ++n) items.insert(items.end(), s->items.begin(), s->items.end());
    return make_sequence(s->kind, std::move(items));
  }
  const auto x = as_real(a), y = as_real(b);
  if (!x || !y) fail(op, ": not for values of types ", type_name(a), " and ", type_name(b));
  if (i && j && op != "/" && !(op == "**" && *j < 0)) return detail::int_operation(op, *i, *j);
  constexpr std::int64_t exact = std::int64_t{1} << 53;
  for (const auto& k : {i, j})
    require(!k || (*k <= exact && *k >= -exact),
            "floating-point arithmetic with an integer beyond 2^53 is not supported");
  return detail::real_operation(op, *x, *y);
}

inline value signed_value(char op, const value& v) {
  if (const auto i = as_int(v)) return op == '-' ? detail::int_operation("-", 0, *i) : *i;
  if (const auto* d = as<double>(v)) return op == '-' ? -*d : *d;
  not_for(v, op);
}

/// a op b, for == != < <= > >= in and "not in".
inline bool compare(std::string_view op, const value& a, const value& b) {
  if (op == "==") return equal(a, b);
  if (op == "!=") return !equal(a, b);
  if (op == "<") return ordered(a, b, std::less());
  if (op == "<=") return ordered(a, b, std::less_equal());
  if (op == ">") return ordered(a, b, std::greater());
  if (op == ">=") return ordered(a, b, std::greater_equal());
  return contains(b, a) == (op == "in");
}

/// v[start:stop:step]; bounds that are left out are null.
inline value sliced(const value& v, const value* start, const value* stop, const value* step) {
  const sequence* s = as_sequence(v);
  if ((!as_text(v) && !s) || (s && s->kind == sequence_kind::view)) not_for(v, "a slice");
  const auto bound = [](const value* x) -> std::optional<std::int64_t> {
    if (!x || is_none(*x)) return {};
    return need_int(*x, "a bound of a slice");
  };
  const std::u32string points = s ? std::u32string() : code_points(need_text(v, "a slice"));
  const auto size = static_cast<std::int64_t>(s ? s->items.size() : points.size());
  const std::int64_t by = bound(step).value_or(1);
  require(by != 0, "the step of a slice is 0");
  const std::int64_t least = by > 0 ? 0 : -1, most = by > 0 ? size : size - 1;
  const auto place = [&](const value* x, std::int64_t otherwise) {
    const auto given = bound(x);
    if (!given) return otherwise;
    return *given < 0 ? std::max(*given + size, least) : std::min(*given, most);
  };
  std::vector<value> items;
  std::u32string part;
  const std::int64_t first = place(start, by > 0 ? 0 : size - 1), end = place(stop, by > 0 ? size : -1);
  for (std::int64_t i = first; by > 0 ? i < end : i > end;) {
    if (s) {
      items.push_back(s->items[static_cast<std::size_t>(i)]);
    } else {
      part += points[static_cast<std::size_t>(i)];
    }
    if (__builtin_add_overflow(i, by, &i)) break;
  }
  if (!s) return utf8(part);
  return make_sequence(s->kind, std::move(items));
}

}  // namespace program::jinja
