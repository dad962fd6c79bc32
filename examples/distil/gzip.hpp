#pragma once

#include <zlib.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/core/extent.hpp>
#include <distil_xlstm/io/read_text.hpp>

#include "common.hpp"

namespace program {

/// The lines of a text file, gzip-compressed or plain, read as a stream: memory is bounded by the longest line. A
/// byte order mark of UTF-8 is passed over, that of another encoding is an error.
/// A file named *.gz must be gzip; any other name may be either. Errors name the file (and the line): a file
/// that cannot be opened or read, is cut short, fails its check sum, or has a line above the bound.
class gzip_line_reader {
 public:
  explicit gzip_line_reader(fs::path path, std::size_t longest_line = std::size_t{64} << 20)
      : path_(std::move(path)), longest_(longest_line), buffer_(std::size_t{1} << 16) {
    dx::require(!fs::is_directory(path_), path_.string(), ": is a folder, not a file of lines");
    errno = 0;
    file_.reset(gzopen(path_.c_str(), "rb"));
    dx::require(file_ != nullptr, path_.string(),
                ": cannot be opened: ", errno ? std::strerror(errno) : "out of memory");
    gzbuffer(file_.get(), 1u << 17);
    // zlib hands through what does not start like gzip; under this name that is a damaged file.
    dx::require(path_.extension() != ".gz" || !gzdirect(file_.get()), path_.string(), ": is not a gzip file");
  }

  /// The next line without its end ("\n" or "\r\n"); false at the end of the file.
  bool next(std::string& line) {
    line.clear();
    for (;;) {
      if (begin_ == end_ && !refill()) {
        if (line.empty()) return false;
        break;
      }
      const char* first = buffer_.data() + begin_;
      const auto* newline = static_cast<const char*>(std::memchr(first, '\n', end_ - begin_));
      const std::size_t n = newline ? static_cast<std::size_t>(newline - first) : end_ - begin_;
      dx::require(n <= longest_ - line.size(), path_.string(), ":", line_number_ + 1, ": line of more than ",
                  longest_, " bytes");
      line.append(first, n);
      begin_ += n + (newline ? 1 : 0);
      if (newline) break;
    }
    if (++line_number_ == 1)
      line.erase(0, line.size() - dx::io::detail::after_byte_order_mark(line, path_.string()).size());
    if (!line.empty() && line.back() == '\r') line.pop_back();
    return true;
  }

  /// Number of the line read last, from 1; 0 before the first.
  dx::index line_number() const { return line_number_; }
  const fs::path& path() const { return path_; }

 private:
  bool refill() {
    const int n = gzread(file_.get(), buffer_.data(), static_cast<unsigned>(buffer_.size()));
    int status = Z_OK;
    const char* message = gzerror(file_.get(), &status);
    // A file cut short still gives its bytes; only the status tells.
    if (n < 0 || (n == 0 && status != Z_OK && status != Z_STREAM_END)) {
      if (status == Z_ERRNO) message = std::strerror(errno);
      if (status == Z_BUF_ERROR) message = "the compressed data ends early";
      dx::fail(path_.string(), ": cannot be read after line ", line_number_, ": ", message);
    }
    begin_ = 0;
    end_ = static_cast<std::size_t>(n);
    return n > 0;
  }

  struct closer {
    void operator()(gzFile file) const { gzclose(file); }
  };

  fs::path path_;
  std::size_t longest_;
  std::vector<char> buffer_;
  std::size_t begin_ = 0, end_ = 0;
  dx::index line_number_ = 0;
  std::unique_ptr<std::remove_pointer_t<gzFile>, closer> file_;
};

}  // namespace program
