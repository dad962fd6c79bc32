#pragma once

#if !__has_include(<utf8proc.h>)
#error \
    "distil_xlstm's files, models and training need utf8proc: link distil_xlstm::io (package libutf8proc-dev)"
#include <distil_xlstm: see the error above>
#endif
#include <utf8proc.h>

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>

#include <distil_xlstm/core/error.hpp>

namespace distil_xlstm::io::detail {

/// `text` in Unicode's normal form C (UAX #15): itself, or a view into `memory` where it has to change.
inline std::string_view normal_form_c(std::string_view text, std::string& memory) {
  // Below U+0300 (lead byte 0xcc) nothing composes or is reordered.
  if (std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0xcc; }))
    return text;
  utf8proc_uint8_t* out = nullptr;
  const auto n = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                              static_cast<utf8proc_ssize_t>(text.size()), &out,
                              static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  require(n >= 0, "utf8proc fails on the text: ", utf8proc_errmsg(n));
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(out, &std::free);
  memory.assign(reinterpret_cast<const char*>(out), static_cast<std::size_t>(n));
  return memory;
}

}  // namespace distil_xlstm::io::detail
