#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include <distil_xlstm/core/config.hpp>
#include <distil_xlstm/io/posix.hpp>

namespace distil_xlstm::io::detail::posix {

DISTIL_XLSTM_INLINE std::int64_t process_id() { return ::getpid(); }

DISTIL_XLSTM_INLINE int open_to_read(const std::string& path) {
  return ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
}

DISTIL_XLSTM_INLINE int open_to_write(const std::string& path) {
  return ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
}

DISTIL_XLSTM_INLINE int create(const std::string& path) {
  return ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
}

DISTIL_XLSTM_INLINE int open_folder(const std::string& path) {
  return ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

DISTIL_XLSTM_INLINE int close(int fd) { return ::close(fd); }

DISTIL_XLSTM_INLINE std::ptrdiff_t write(int fd, const char* from, std::size_t bytes) {
  // macOS refuses 2 GiB and more at once (EINVAL); Linux writes the first of them.
  const std::size_t most = std::size_t{1} << 30;
  for (;;) {
    const auto n = ::write(fd, from, std::min(bytes, most));
    if (n >= 0 || errno != EINTR) return n;
  }
}

DISTIL_XLSTM_INLINE int sync(int fd) {
#if defined(__APPLE__)
  // There fsync stops at the drive's cache. Where a file system has no F_FULLFSYNC, a network's for one, fsync is all.
  if (::fcntl(fd, F_FULLFSYNC) == 0) return 0;
  if (errno == EIO || errno == ENOSPC) return -1;
#endif
  return ::fsync(fd);
}

DISTIL_XLSTM_INLINE bool has_no_disk(int code) { return code == EINVAL || code == ENOTSUP; }

DISTIL_XLSTM_INLINE int status(int fd, file_status& out) {
  struct stat found {};
  if (::fstat(fd, &found) != 0) return -1;
  out = {S_ISREG(found.st_mode), S_ISDIR(found.st_mode), static_cast<std::size_t>(found.st_size)};
  return 0;
}

DISTIL_XLSTM_INLINE void* map(int fd, std::size_t bytes) {
  void* at = ::mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE, fd, 0);
  return at == MAP_FAILED ? nullptr : at;
}

DISTIL_XLSTM_INLINE void unmap(void* at, std::size_t bytes) { ::munmap(at, bytes); }

}  // namespace distil_xlstm::io::detail::posix
