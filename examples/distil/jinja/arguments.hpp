#pragma once

#include <array>
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "value.hpp"

namespace program::jinja {

/// What a function is called with.
struct arguments {
  std::vector<value> positional = {};
  std::vector<std::pair<std::string, value>> named = {};

  /// The arguments by a function's parameters, as Python binds them; null where one is not given. The first
  /// `required` must be.
  template <std::size_t N>
  std::array<const value*, N> bind(std::string_view function, const char* const (&parameters)[N],
                                   std::size_t required = 0) const {
    std::array<const value*, N> out{};
    require(positional.size() <= N, function, ": takes ", N, " arguments at most, not ", positional.size());
    for (std::size_t i = 0; i < positional.size(); ++i) out[i] = &positional[i];
    for (const auto& [name, v] : named) {
      std::size_t i = 0;
      while (i < N && name != parameters[i]) ++i;
      require(i < N, function, ": an argument ", name, " is not supported");
      require(!out[i], function, ": the argument ", name, " is given twice");
      out[i] = &v;
    }
    for (std::size_t i = 0; i < required; ++i)
      require(out[i] != nullptr, function, ": the argument ", parameters[i], " is missing");
    return out;
  }
  void need_none(std::string_view function) const {
    require(positional.empty() && named.empty(), function, ": takes no arguments");
  }
};

}  // namespace program::jinja
