#pragma once

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <istream>
#include <string>
#include <string_view>
#include <utility>

#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/core/extent.hpp>
#include <distil_xlstm/io/mapped_file.hpp>
#include <distil_xlstm/io/utf8.hpp>

namespace distil_xlstm::io {

/// A text, and what was done to it.
struct text_content {
  std::string text;  ///< UTF-8
  index crlf = 0;    ///< line ends of CR and LF that became LF
};

namespace detail {

/// `text` without UTF-8's byte order mark. Throws `error` naming UTF-16 or UTF-32 where it begins with theirs.
std::string_view after_byte_order_mark(std::string_view text, std::string_view name);

}  // namespace detail

/// The text that the bytes of a text file are, whatever wrote it: UTF-8, without a byte order mark, its lines ended by
/// LF (a CR that no LF follows stands). Throws `error` beginning with `name` where they are no UTF-8 text: another
/// encoding's byte order mark, a NUL, a byte that begins no character (with its offset in the file, its line, and the
/// offset there), a compressed file, a Git LFS pointer. Takes time linear in the size, and no second copy.
text_content clean_text(std::string bytes, std::string_view name);

/// All that a stream gives, as `clean_text` does.
text_content read_text(std::istream& in, std::string_view name, std::size_t expected = 0);

/// A text file, as `clean_text` does. Throws `error` naming it where it cannot be read, too.
text_content read_text(const std::filesystem::path& path);

}  // namespace distil_xlstm::io

#ifndef DISTIL_XLSTM_COMPILED
#include <distil_xlstm/io/read_text.ipp>
#endif
