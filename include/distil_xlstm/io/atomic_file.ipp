#pragma once

#include <distil_xlstm/core/config.hpp>
#include <distil_xlstm/io/atomic_file.hpp>

namespace distil_xlstm::io {

DISTIL_XLSTM_INLINE atomic_file::atomic_file(const std::filesystem::path& path) : path_(path.string()) {
  std::error_code none;
  if (const auto there = std::filesystem::status(path, none); std::filesystem::is_other(there)) {
    fd_ = detail::posix::open_to_write(path_);
  } else {
    temporary_ = path_ + ".tmp-" + std::to_string(detail::posix::process_id());
    fd_ = detail::posix::create(temporary_);
  }
  if (fd_ < 0) fail(path_, ": cannot create: ", detail::posix::errno_text(errno));
  buffer_.reserve(capacity);
}

DISTIL_XLSTM_INLINE void atomic_file::write(const void* data, std::size_t bytes) {
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

DISTIL_XLSTM_INLINE void atomic_file::commit() {
  require(fd_ >= 0, path_, ": committed after it was committed or had failed");
  flush();
  if (detail::posix::sync(fd_) != 0 && !(temporary_.empty() && detail::posix::has_no_disk(errno)))
    give_up("cannot sync");
  const int fd = std::exchange(fd_, -1);
  if (detail::posix::close(fd) != 0) give_up("cannot close");
  if (temporary_.empty()) return;
  if (std::rename(temporary_.c_str(), path_.c_str()) != 0) give_up("cannot rename");
  sync_folder();
}

DISTIL_XLSTM_INLINE void atomic_file::flush() {
  write_through(buffer_.data(), buffer_.size());
  buffer_.clear();
}

DISTIL_XLSTM_INLINE void atomic_file::write_through(const char* p, std::size_t bytes) {
  while (bytes > 0) {
    const auto n = detail::posix::write(fd_, p, bytes);
    if (n < 0) give_up("cannot write");
    p += n;
    bytes -= static_cast<std::size_t>(n);
  }
}

[[noreturn]] DISTIL_XLSTM_INLINE void atomic_file::give_up(const char* what) {
  const int code = errno;
  discard();
  if (!temporary_.empty()) std::remove(temporary_.c_str());
  fail(path_, ": ", what, ": ", detail::posix::errno_text(code));
}

DISTIL_XLSTM_INLINE void atomic_file::discard() noexcept {
  if (fd_ < 0) return;
  detail::posix::close(fd_);
  if (!temporary_.empty()) std::remove(temporary_.c_str());
  fd_ = -1;
}

DISTIL_XLSTM_INLINE void atomic_file::sync_folder() const {
  auto folder = std::filesystem::path(path_).parent_path();
  if (folder.empty()) folder = ".";
  const int fd = detail::posix::open_folder(folder.string());
  if (fd < 0) return;  // a folder may be writable and not readable
  const int code = detail::posix::sync(fd) == 0 ? 0 : errno;
  detail::posix::close(fd);
  require(code == 0 || detail::posix::has_no_disk(code), path_,
          ": cannot sync the folder: ", detail::posix::errno_text(code));
}

DISTIL_XLSTM_INLINE void write_text_atomically(const std::filesystem::path& path, std::string_view text) {
  atomic_file file(path);
  file.write(text);
  file.commit();
}

}  // namespace distil_xlstm::io
