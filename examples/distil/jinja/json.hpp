#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "arguments.hpp"
#include "operators.hpp"

namespace program::jinja {

/// Python's json.dumps with the arguments that transformers' filter tojson has: ensure_ascii (false unless given),
/// indent, separators, sort_keys.
class json_writer {
 public:
  explicit json_writer(const arguments& a) {
    const auto [ascii, indent, separators, sort] =
        a.bind("tojson", {"ensure_ascii", "indent", "separators", "sort_keys"});
    ascii_ = ascii && truth(*ascii);
    sort_ = sort && truth(*sort);
    if (indent && !is_none(*indent)) {
      if (as_text(*indent)) {
        indent_ = need_text(*indent, "tojson");
      } else {
        const auto n = std::clamp<std::int64_t>(need_int(*indent, "tojson"), 0, 100);
        indent_ = std::string(static_cast<std::size_t>(n), ' ');
      }
      comma_ = ",";
    }
    if (separators && !is_none(*separators)) {
      const auto parts = elements(*separators);
      require(parts.size() == 2, "tojson: separators are two texts");
      comma_ = need_text(parts[0], "tojson");
      colon_ = need_text(parts[1], "tojson");
    }
  }

  std::string operator()(const value& v) {
    write(v, 1);
    return std::move(out_);
  }

 private:
  void write(const value& v, std::size_t depth) {
    need_room(out_.size(), 1);
    if (is_none(v)) {
      out_ += "null";
    } else if (const auto* b = as<bool>(v)) {
      out_ += *b ? "true" : "false";
    } else if (as<std::int64_t>(v)) {
      out_ += str(v);
    } else if (const auto* d = as<double>(v)) {
      out_ += number(*d);
    } else if (as_text(v)) {
      write_text(need_text(v, "tojson"));
    } else if (const auto* m = as_mapping(v)) {
      write_mapping(*m, depth);
    } else if (const auto* s = as_sequence(v);
               s && (s->kind == sequence_kind::list || s->kind == sequence_kind::tuple)) {
      write_all('[', s->items, ']', depth, [&](const value& x) { write(x, depth + 1); });
    } else {
      not_for(v, "tojson");
    }
  }
  static std::string number(double x) {
    if (std::isnan(x)) return "NaN";
    if (std::isinf(x)) return x < 0 ? "-Infinity" : "Infinity";
    return float_text(x);
  }
  void write_mapping(const mapping& m, std::size_t depth) {
    std::vector<const std::pair<value, value>*> items;
    for (const auto& item : m.items) items.push_back(&item);
    if (sort_)
      std::stable_sort(items.begin(), items.end(),
                       [](const auto* a, const auto* b) { return compare("<", a->first, b->first); });
    write_all('{', items, '}', depth, [&](const auto* item) {
      write_text(key(item->first));
      out_ += colon_;
      write(item->second, depth + 1);
    });
  }
  static std::string key(const value& k) {
    if (as_text(k)) return need_text(k, "tojson");
    if (is_none(k)) return "null";
    if (const auto* b = as<bool>(k)) return *b ? "true" : "false";
    if (const auto* d = as<double>(k)) return number(*d);
    if (as<std::int64_t>(k)) return str(k);
    not_for(k, "a key of tojson");
  }
  template <class Items, class Write>
  void write_all(char open, const Items& items, char close, std::size_t depth, const Write& one) {
    out_ += open;
    const auto line = [&](std::size_t n) {
      if (!indent_) return;
      need_room(indent_->size() + 1, n + 1);
      out_ += '\n';
      for (; n > 0; --n) out_ += *indent_;
    };
    bool first = true;
    for (const auto& item : items) {
      if (!std::exchange(first, false)) out_ += comma_;
      line(depth);
      one(item);
    }
    if (!items.empty()) line(depth - 1);
    out_ += close;
  }
  void write_text(std::string_view text) {
    const auto escape = [&](unsigned unit) {
      char buffer[8];
      std::snprintf(buffer, sizeof buffer, "\\u%04x", unit & 0xffff);
      out_ += buffer;
    };
    out_ += '"';
    for (const char32_t c : code_points(text)) {
      static constexpr std::string_view plain = "\"\\\n\r\t\f\b", letters = "\"\\nrtfb";
      if (const auto i = c < 0x80 ? plain.find(static_cast<char>(c)) : plain.npos; i != plain.npos) {
        (out_ += '\\') += letters[i];
      } else if (c < 0x20 || (ascii_ && c > 0x7e && c < 0x10000)) {
        escape(c);
      } else if (ascii_ && c >= 0x10000) {
        escape(0xd800 + ((c - 0x10000) >> 10));
        escape(0xdc00 + ((c - 0x10000) & 0x3ff));
      } else {
        append_utf8(out_, c);
      }
    }
    out_ += '"';
  }

  bool ascii_ = false, sort_ = false;
  std::optional<std::string> indent_;
  std::string comma_ = ", ", colon_ = ": ", out_;
};

}  // namespace program::jinja
