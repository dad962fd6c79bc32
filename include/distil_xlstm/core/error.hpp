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

/// The training ran into numbers that no further step can repair (ten non-finite gradients in a row).
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
