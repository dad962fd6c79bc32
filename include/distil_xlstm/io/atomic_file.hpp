#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/io/mapped_file.hpp>

namespace distil_xlstm::io {

/// Writes a file so that its name always holds either the whole old content or the whole new one: bytes go to
/// `path.tmp-<pid>` beside it, and `commit` flushes, syncs and renames. A failure anywhere (a full disk, an I/O
/// error) throws `error` naming the file and the reason, removes the temporary and leaves the old file as it
/// was. Without `commit` the destructor removes the temporary. One writer a path and process at a time.
/// What is there and is no regular file, a device or a pipe, is written to as it is and never replaced.
class atomic_file {
 public:
  explicit atomic_file(const std::filesystem::path& path) : path_(path.string()) {
    std::error_code none;
    if (const auto there = std::filesystem::status(path, none); std::filesystem::is_other(there)) {
      fd_ = ::open(path_.c_str(), O_WRONLY | O_CLOEXEC);
    } else {
      temporary_ = path_ + ".tmp-" + std::to_string(::getpid());
      fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    }
    if (fd_ < 0) fail(path_, ": cannot create: ", detail::errno_text(errno));
    buffer_.reserve(capacity);
  }
  atomic_file(const atomic_file&) = delete;
  atomic_file& operator=(const atomic_file&) = delete;
  ~atomic_file() { discard(); }

  const std::string& path() const { return path_; }
  /// Bytes taken so far.
  std::uint64_t size() const { return size_; }

  void write(const void* data, std::size_t bytes) {
    require(fd_ >= 0, path_, ": written after it was committed or had failed");
    const auto* p = static_cast<const char*>(data);
    if (buffer_.size() + bytes > capacity) flush();
    if (bytes >= capacity) {
      write_through(p, bytes);
    } else {
      buffer_.insert(buffer_.end(), p, p + bytes);
    }
    size_ += bytes;
  }
  void write(std::string_view text) { write(text.data(), text.size()); }

  /// Makes the new content the file's, durably. To be called once; nothing is written after it.
  void commit() {
    require(fd_ >= 0, path_, ": committed after it was committed or had failed");
    flush();
    if (::fsync(fd_) != 0 && !(temporary_.empty() && errno == EINVAL)) give_up("cannot sync");
    const int fd = std::exchange(fd_, -1);
    if (::close(fd) != 0) give_up("cannot close");
    if (temporary_.empty()) return;
    if (std::rename(temporary_.c_str(), path_.c_str()) != 0) give_up("cannot rename");
    sync_folder();
  }

 private:
  static constexpr std::size_t capacity = 1u << 18;

  void flush() {
    write_through(buffer_.data(), buffer_.size());
    buffer_.clear();
  }
  void write_through(const char* p, std::size_t bytes) {
    while (bytes > 0) {
      const auto n = ::write(fd_, p, bytes);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) give_up("cannot write");
      p += n;
      bytes -= static_cast<std::size_t>(n);
    }
  }
  [[noreturn]] void give_up(const char* what) {
    const int code = errno;
    discard();
    if (!temporary_.empty()) ::unlink(temporary_.c_str());
    fail(path_, ": ", what, ": ", detail::errno_text(code));
  }
  void discard() noexcept {
    if (fd_ < 0) return;
    ::close(fd_);
    if (!temporary_.empty()) ::unlink(temporary_.c_str());
    fd_ = -1;
  }
  /// The rename itself is durable only once the folder is. Some file systems cannot sync folders (EINVAL).
  void sync_folder() const {
    auto folder = std::filesystem::path(path_).parent_path();
    if (folder.empty()) folder = ".";
    const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return;  // a folder may be writable and not readable
    const int code = ::fsync(fd) == 0 ? 0 : errno;
    ::close(fd);
    require(code == 0 || code == EINVAL, path_, ": cannot sync the folder: ", detail::errno_text(code));
  }

  std::string path_;
  std::string temporary_;  // empty where `path_` itself is written
  int fd_ = -1;
  std::vector<char> buffer_;
  std::uint64_t size_ = 0;
};

/// The whole of `text` as the content of `path`, through `atomic_file`.
inline void write_text_atomically(const std::filesystem::path& path, std::string_view text) {
  atomic_file file(path);
  file.write(text);
  file.commit();
}

}  // namespace distil_xlstm::io
