#pragma once

#include <cstdio>
#include <filesystem>
#include <stdexcept>
#include <string>

#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/core/extent.hpp>

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

/// Four significant digits, for people.
inline std::string short_number(double x) {
  char text[32];
  std::snprintf(text, sizeof text, x >= 1000 ? "%.0f" : "%.4g", x);
  return text;
}

/// 12,115,608
inline std::string grouped(dx::index n) {
  std::string s = std::to_string(n);
  for (auto i = static_cast<std::ptrdiff_t>(s.size()) - 3; i > (n < 0 ? 1 : 0); i -= 3)
    s.insert(static_cast<std::size_t>(i), ",");
  return s;
}

}  // namespace program
