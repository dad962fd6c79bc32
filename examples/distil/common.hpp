#pragma once

#include <unistd.h>

#include <cstddef>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <stdexcept>
#include <string>
#include <string_view>

#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/core/extent.hpp>
#include <distil_xlstm/io/utf8.hpp>

/// Everything of the program `distil`.
namespace program {

namespace dx = distil_xlstm;
namespace fs = std::filesystem;

/// The command line is wrong: exit status 2.
class usage_error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// use(), where what it throws is the fault of an option.
template <class F>
auto of_option(const char* option, const F& use) {
  try {
    return use();
  } catch (const dx::error& e) {
    throw usage_error(std::string("--") + option + ": " + e.what());
  }
}

/// Says on stderr where `tokens` at once are more than the `context` that a transformer was trained to see; 0: any, or
/// not known.
inline void warn_beyond_context(dx::index tokens, dx::index context, const fs::path& model) {
  if (context > 0 && tokens > context)
    std::cerr << "distil: warning: " << model.string() << ": windows of " << tokens
              << " tokens run past its max_position_embeddings of " << context
              << "; what it says there is not reliable\n";
}

/// A path or text as JSON and HTML can hold it: what is not UTF-8 becomes U+FFFD.
inline std::string valid_utf8(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const auto step = dx::io::detail::utf8_next(text);
    out += step.whole ? text.substr(0, step.length) : std::string_view("\xef\xbf\xbd");
    text.remove_prefix(step.length);
  }
  return out;
}

/// Four significant digits, for people.
inline std::string short_number(double x) {
  char text[32];
  std::snprintf(text, sizeof text, x >= 1000 ? "%.0f" : "%.4g", x);
  return text;
}

/// "3 min 05 s"
inline std::string clock_text(double seconds) {
  const auto s = seconds > 0 ? static_cast<long>(seconds) : 0L;
  char text[48];
  if (s >= 3600)
    std::snprintf(text, sizeof text, "%ld h %02ld min", s / 3600, s / 60 % 60);
  else
    std::snprintf(text, sizeof text, "%ld min %02ld s", s / 60, s % 60);
  return text;
}

/// Whether somebody looks at stderr: then there is a line of progress.
inline bool on_terminal() { return ::isatty(2); }

/// 12,115,608
inline std::string grouped(dx::index n) {
  std::string s = std::to_string(n);
  for (auto i = static_cast<std::ptrdiff_t>(s.size()) - 3; i > (n < 0 ? 1 : 0); i -= 3)
    s.insert(static_cast<std::size_t>(i), ",");
  return s;
}

}  // namespace program
