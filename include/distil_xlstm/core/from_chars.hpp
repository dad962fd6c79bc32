#pragma once

#include <charconv>
#include <system_error>

#ifndef __cpp_lib_to_chars
#include <locale.h>
#include <stdlib.h>
#if defined(__APPLE__)
#include <xlocale.h>
#endif

#include <algorithm>
#include <cmath>
#include <string>
#include <string_view>
#endif

namespace distil_xlstm {

/// std::from_chars of a double, in decimal, whatever the locale. libc++ before version 20 has none: there strtod reads
/// what from_chars would.
inline std::from_chars_result from_chars(const char* first, const char* last, double& value) {
#ifdef __cpp_lib_to_chars
  return std::from_chars(first, last, value);
#else
  // Of what strtod takes besides: blanks and a plus before a number, and hexadecimal.
  const char* begin = first != last && *first == '-' ? first + 1 : first;
  const bool digit = begin != last && ((*begin >= '0' && *begin <= '9') || *begin == '.');
  if (!digit) return {first, std::errc::invalid_argument};
  const std::string text(first, std::find_if(begin, last, [](char c) { return c == 'x' || c == 'X'; }));
  static const locale_t plain = newlocale(LC_ALL_MASK, "C", nullptr);
  char* end = nullptr;
  const double x = strtod_l(text.c_str(), &end, plain);
  if (end == text.c_str()) return {first, std::errc::invalid_argument};
  const char* stop = first + (end - text.c_str());
  // Beyond a double, or so small that it would be 0.
  const std::string_view digits =
      std::string_view(first, stop).substr(0, std::string_view(first, stop).find_first_of("eE"));
  if (std::isinf(x) || (x == 0 && digits.find_first_of("123456789") != digits.npos))
    return {stop, std::errc::result_out_of_range};
  value = x;
  return {stop, std::errc()};
#endif
}

}  // namespace distil_xlstm
