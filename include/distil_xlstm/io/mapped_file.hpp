#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include <distil_xlstm/core/error.hpp>

namespace distil_xlstm::io {

namespace detail {
/// The words for an errno value, safe among threads (unlike strerror).
inline std::string errno_text(int code) { return std::generic_category().message(code); }

/// What a clone has in a file's place until `git lfs pull`: https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
inline bool is_lfs_pointer(std::string_view content) {
  return content.size() < 1024 && content.starts_with("version https://git-lfs.github.com/spec/");
}
}  // namespace detail

/// A whole file, mapped read-only. Its bytes stay where they are when the object moves.
/// The mapping follows the file: shortening it in place while it is mapped is fatal to the process; replacing
/// it by rename (as `atomic_file` does) is safe.
class mapped_file {
 public:
  mapped_file() = default;
  /// Throws `error` naming the file and the reason; directories, devices and Git LFS pointers are refused.
  explicit mapped_file(const std::filesystem::path& path) : mapped_file() {
    path_ = path.string();
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) fail(path_, ": cannot open: ", detail::errno_text(errno));
    struct stat status {};
    int code = ::fstat(fd, &status) == 0 ? 0 : errno;
    const bool regular = code == 0 && S_ISREG(status.st_mode);
    if (regular && status.st_size > 0) {
      size_ = static_cast<std::size_t>(status.st_size);
      data_ = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd, 0);
      if (data_ == MAP_FAILED) {
        code = errno;
        data_ = nullptr;
        size_ = 0;
      }
    }
    ::close(fd);
    require(code == 0, path_, ": cannot map: ", detail::errno_text(code));
    require(regular, path_, S_ISDIR(status.st_mode) ? ": is a directory" : ": is not a regular file");
    require(!detail::is_lfs_pointer(text()), path_, ": is a Git LFS pointer, not the file");
  }
  mapped_file(mapped_file&& other) noexcept
      : path_(std::move(other.path_)),
        data_(std::exchange(other.data_, nullptr)),
        size_(std::exchange(other.size_, 0)) {}
  mapped_file& operator=(mapped_file&& other) noexcept {
    std::swap(path_, other.path_);
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~mapped_file() {
    if (data_) ::munmap(data_, size_);
  }

  const std::string& path() const { return path_; }
  std::span<const std::byte> bytes() const { return {static_cast<const std::byte*>(data_), size_}; }
  /// The bytes as they are, UTF-8 or not.
  std::string_view text() const { return {static_cast<const char*>(data_), size_}; }

 private:
  std::string path_;
  void* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace distil_xlstm::io
