#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include <distil_xlstm/core/config.hpp>

namespace distil_xlstm::io::detail {

/// A name out of a file as an error may show it: control characters become '?', and it is cut at `limit` bytes,
/// so that a message stays one line whatever the file holds.
inline std::string printable(std::string_view text, std::size_t limit = 120) {
  std::string out(text.substr(0, limit));
  for (char& c : out)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  if (text.size() > limit) out += "...";
  return out;
}

}  // namespace distil_xlstm::io::detail
