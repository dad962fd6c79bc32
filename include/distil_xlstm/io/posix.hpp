#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <system_error>

/// What the library asks of the operating system beside the standard library: POSIX, on Linux and on macOS. A call that
/// fails gives -1, and errno says why.
namespace distil_xlstm::io::detail::posix {

/// The words for an errno value, safe among threads (unlike strerror).
inline std::string errno_text(int code) { return std::generic_category().message(code); }

std::int64_t process_id();

int open_to_read(const std::string& path);
/// What is there: a device, a pipe.
int open_to_write(const std::string& path);
/// Empty, whatever it held; made where it is not there.
int create(const std::string& path);
int open_folder(const std::string& path);
int close(int fd);

/// Writes the first of `bytes` bytes, at least one; how many.
std::ptrdiff_t write(int fd, const char* from, std::size_t bytes);
/// Brings what a file holds, or the names in a folder, to the disk itself.
int sync(int fd);
/// Whether `sync` failed with this errno value because there is nothing to bring to a disk: a pipe, a device, the
/// folders of some file systems.
bool has_no_disk(int code);

struct file_status {
  bool regular = false, folder = false;
  std::size_t size = 0;
};
int status(int fd, file_status& out);

/// The first `bytes` bytes of a file, 1 or more, to be read until `unmap`; the file may be closed before. Null: errno
/// says why.
void* map(int fd, std::size_t bytes);
void unmap(void* at, std::size_t bytes);

}  // namespace distil_xlstm::io::detail::posix

#ifndef DISTIL_XLSTM_COMPILED
#include <distil_xlstm/io/posix.ipp>
#endif
