#pragma once

#include <cmath>
#include <sstream>
#include <string>
#include <utility>

#include <distil_xlstm/core/config.hpp>

/// For tests of one's own: the laws of every concept, derivatives by differences, tolerances.
namespace distil_xlstm::testing {

/// What checking a concept's laws gives: nothing, or the first law that is broken.
struct law_report {
  std::string law;   ///< empty where all hold
  std::string text;  ///< the law, by how much it is broken and where: a test's message
  double error = 0;  ///< by how much it is broken

  /// Whether all laws hold.
  bool ok() const { return law.empty(); }
};

namespace detail {
/// Broken where `error` exceeds `limit` or is no number; `where` is written one part after another.
template <class... Where>
law_report judge(std::string law, double error, double limit, const Where&... where) {
  if (error <= limit) return {};
  std::ostringstream text;
  text << law << ": off by " << error << ", at most " << limit << " is allowed";
  ((text << ", ") << ... << where);
  return {std::move(law), text.str(), error};
}
}  // namespace detail

}  // namespace distil_xlstm::testing
