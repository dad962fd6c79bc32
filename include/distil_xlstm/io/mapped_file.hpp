#pragma once

#include <cerrno>
#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/io/posix.hpp>

namespace distil_xlstm::io {

namespace detail {
/// What a clone has in a file's place until `git lfs pull`: https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
bool is_lfs_pointer(std::string_view content);
}  // namespace detail

/// A whole file, mapped read-only. Its bytes stay where they are when the object moves.
/// The mapping follows the file: shortening it in place while it is mapped is fatal to the process; replacing
/// it by rename (as `atomic_file` does) is safe.
class mapped_file {
 public:
  mapped_file() = default;
  /// Throws `error` naming the file and the reason; directories, devices and Git LFS pointers are refused.
  explicit mapped_file(const std::filesystem::path& path);
  /// @{
  /// The mapping moves.
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
  /// @}
  ~mapped_file();

  /// As it was opened.
  const std::string& path() const { return path_; }
  /// All of them, valid while the file is mapped.
  std::span<const std::byte> bytes() const { return {static_cast<const std::byte*>(data_), size_}; }
  /// The bytes as they are, UTF-8 or not.
  std::string_view text() const { return {static_cast<const char*>(data_), size_}; }

 private:
  std::string path_;
  void* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace distil_xlstm::io

#ifndef DISTIL_XLSTM_COMPILED
#include <distil_xlstm/io/mapped_file.ipp>
#endif
