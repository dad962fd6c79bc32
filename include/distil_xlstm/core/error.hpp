#pragma once

#include <concepts>
#include <cstddef>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>

#include <distil_xlstm/core/config.hpp>

namespace distil_xlstm {

/// What the library throws: one line that names the file, tensor, block or option concerned, and both numbers.
class error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Numbers that are not finite, and that nothing which follows can repair: a training run that has diverged, a text of
/// which no logit is a number.
class numeric_error : public error {
 public:
  using error::error;
};

namespace detail {

/// A part of a message: text, a character or a number. Every check of the library ends here, so this is no
/// template of streams, which each caller's compiler would have to work through.
class message_part {
 public:
  message_part(std::string_view text) : kind_(kind::text), text_(text) {}
  message_part(const std::string& text) : message_part(std::string_view(text)) {}
  message_part(const char* text) : message_part(std::string_view(text)) {}
  message_part(char c) : kind_(kind::character), character_(c) {}
  message_part(double x) : kind_(kind::real), real_(x) {}
  /// A whole number, or what is one, as an extent.
  template <class T>
  requires(std::integral<T> || (std::is_class_v<T> && std::is_convertible_v<T, std::ptrdiff_t>))
      message_part(T n)
      : kind_(std::is_unsigned_v<T> ? kind::natural : kind::whole) {
    if constexpr (std::is_unsigned_v<T>)
      natural_ = n;
    else
      whole_ = static_cast<std::ptrdiff_t>(n);
  }

  void append_to(std::string& out) const {
    if (kind_ == kind::text) {
      out += text_;
    } else if (kind_ == kind::character) {
      out += character_;
    } else if (kind_ == kind::whole) {
      out += std::to_string(whole_);
    } else if (kind_ == kind::natural) {
      out += std::to_string(natural_);
    } else {
      char digits[32];
      std::snprintf(digits, sizeof digits, "%g", real_);
      out += digits;
    }
  }

 private:
  enum class kind : unsigned char { text, character, whole, natural, real };
  kind kind_;
  union {
    std::string_view text_;
    char character_;
    std::ptrdiff_t whole_;
    unsigned long long natural_;
    double real_;
  };
};

[[noreturn, gnu::cold, gnu::noinline]] inline void throw_error(const message_part* parts, std::size_t count) {
  std::string out;
  for (std::size_t i = 0; i < count; ++i) parts[i].append_to(out);
  throw error(out);
}

}  // namespace detail

/// Throws `error` with the parts, text and numbers, written one after another.
template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  const detail::message_part list[] = {parts...};
  detail::throw_error(list, sizeof...(parts));
}

/// Throws `error` with the parts unless `condition` holds.
template <class... Parts>
void require(bool condition, const Parts&... parts) {
  if (!condition) [[unlikely]]
    fail(parts...);
}

}  // namespace distil_xlstm
