#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

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

/// Throws `error` with the parts written one after another.
template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  throw error(out.str());
}

/// Throws `error` with the parts unless `condition` holds.
template <class... Parts>
void require(bool condition, const Parts&... parts) {
  if (!condition) fail(parts...);
}

}  // namespace distil_xlstm
