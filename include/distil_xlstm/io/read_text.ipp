#pragma once

#include <distil_xlstm/core/config.hpp>
#include <distil_xlstm/io/read_text.hpp>

namespace distil_xlstm::io::detail {

DISTIL_XLSTM_INLINE std::string_view after_byte_order_mark(std::string_view text, std::string_view name) {
  using namespace std::string_view_literals;
  static constexpr std::pair<std::string_view, std::string_view> others[] = {
      {"\xff\xfe\0\0"sv, "UTF-32, little endian"},
      {"\0\0\xfe\xff"sv, "UTF-32, big endian"},
      {"\xff\xfe"sv, "UTF-16, little endian"},
      {"\xfe\xff"sv, "UTF-16, big endian"}};
  for (const auto& [mark, encoding] : others)
    require(!text.starts_with(mark), name, ": begins with the byte order mark of ", encoding,
            "; a text must be UTF-8");
  if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);
  return text;
}

}  // namespace distil_xlstm::io::detail

namespace distil_xlstm::io {

DISTIL_XLSTM_INLINE text_content clean_text(std::string bytes, std::string_view name) {
  require(!detail::is_lfs_pointer(bytes), name, ": is a Git LFS pointer, not the file");
  require(!bytes.starts_with("\x1f\x8b"), name, ": is compressed by gzip, a text is wanted");
  const std::size_t mark = bytes.size() - detail::after_byte_order_mark(bytes, name).size();
  const std::size_t nul = bytes.find('\0'), bad = first_invalid_utf8(std::string_view(bytes).substr(0, nul));
  const auto place = [&](std::size_t at) {
    const auto line = std::count(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(at), '\n') + 1;
    const std::size_t end = std::string_view(bytes).substr(0, at).rfind('\n');
    return std::to_string(at) + " (line " + std::to_string(line) + ", byte " +
           std::to_string(end == bytes.npos ? at : at - end - 1) + ")";
  };
  require(bad == bytes.npos, name, ": not valid UTF-8 at byte ", bad == bytes.npos ? "" : place(bad));
  require(nul == bytes.npos, name, ": a NUL, which no text has, at byte ", nul == bytes.npos ? "" : place(nul));
  text_content out;
  std::size_t to = 0, from = mark;
  while (from < bytes.size()) {
    const std::size_t end = std::min(bytes.find("\r\n", from), bytes.size());
    if (to != from) std::copy_n(bytes.data() + from, end - from, bytes.data() + to);
    to += end - from;
    from = end;
    if (from == bytes.size()) break;
    bytes[to++] = '\n';
    from += 2, ++out.crlf;
  }
  bytes.resize(to);
  out.text = std::move(bytes);
  return out;
}

DISTIL_XLSTM_INLINE text_content read_text(std::istream& in, std::string_view name, std::size_t expected) {
  std::string bytes;
  bytes.reserve(expected + 1);
  for (std::size_t size = 0, part = std::size_t{1} << 16; in.good(); part = std::max(part, size / 2)) {
    bytes.resize(std::max(size + part, std::min(bytes.capacity(), size + (std::size_t{1} << 20))));
    in.read(bytes.data() + size, static_cast<std::streamsize>(bytes.size() - size));
    size += static_cast<std::size_t>(in.gcount());
    if (!in.good()) bytes.resize(size);
  }
  require(!in.bad(), name, ": cannot be read to its end");
  return clean_text(std::move(bytes), name);
}

DISTIL_XLSTM_INLINE text_content read_text(const std::filesystem::path& path) {
  const std::string name = path.string();
  require(!std::filesystem::is_directory(path), name, ": is a folder, a text is wanted");
  std::ifstream in(path, std::ios::binary);
  require(in.good(), name, ": cannot be read: no such file, or no permission");
  std::error_code none;
  const auto size = std::filesystem::is_regular_file(path, none) ? std::filesystem::file_size(path, none) : 0;
  return read_text(in, name, none ? 0 : static_cast<std::size_t>(size));
}

}  // namespace distil_xlstm::io
