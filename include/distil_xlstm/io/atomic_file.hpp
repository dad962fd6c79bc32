#pragma once

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
#include <distil_xlstm/io/posix.hpp>

namespace distil_xlstm::io {

/// Writes a file so that its name always holds either the whole old content or the whole new one: bytes go to
/// `path.tmp-<pid>` beside it, and `commit` flushes, syncs and renames. A failure anywhere (a full disk, an I/O
/// error) throws `error` naming the file and the reason, removes the temporary and leaves the old file as it
/// was. Without `commit` the destructor removes the temporary. One writer a path and process at a time.
/// What is there and is no regular file, a device or a pipe, is written to as it is and never replaced.
class atomic_file {
 public:
  /// Begins a new content of `path`. Throws `error` where nothing can be created there.
  explicit atomic_file(const std::filesystem::path& path);
  atomic_file(const atomic_file&) = delete;
  atomic_file& operator=(const atomic_file&) = delete;
  ~atomic_file() { discard(); }

  /// The name that the content is to have.
  const std::string& path() const { return path_; }
  /// Bytes taken so far.
  std::uint64_t size() const { return size_; }

  /// @{
  /// The next bytes of the content.
  void write(const void* data, std::size_t bytes);
  void write(std::string_view text) { write(text.data(), text.size()); }
  /// @}

  /// Makes the new content the file's, durably. To be called once; nothing is written after it.
  void commit();

 private:
  static constexpr std::size_t capacity = 1u << 18;

  void flush();
  void write_through(const char* p, std::size_t bytes);
  [[noreturn]] void give_up(const char* what);
  void discard() noexcept;
  /// The rename itself is durable only once the folder is.
  void sync_folder() const;

  std::string path_;
  std::string temporary_;  // empty where `path_` itself is written
  int fd_ = -1;
  std::vector<char> buffer_;
  std::uint64_t size_ = 0;
};

/// The whole of `text` as the content of `path`, through `atomic_file`.
void write_text_atomically(const std::filesystem::path& path, std::string_view text);

}  // namespace distil_xlstm::io

#ifndef DISTIL_XLSTM_COMPILED
#include <distil_xlstm/io/atomic_file.ipp>
#endif
