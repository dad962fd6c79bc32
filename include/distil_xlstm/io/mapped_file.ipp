#pragma once

#include <distil_xlstm/core/config.hpp>
#include <distil_xlstm/io/mapped_file.hpp>

namespace distil_xlstm::io::detail {

DISTIL_XLSTM_INLINE bool is_lfs_pointer(std::string_view content) {
  return content.size() < 1024 && content.starts_with("version https://git-lfs.github.com/spec/");
}

}  // namespace distil_xlstm::io::detail

namespace distil_xlstm::io {

DISTIL_XLSTM_INLINE mapped_file::mapped_file(const std::filesystem::path& path) : mapped_file() {
  path_ = path.string();
  const int fd = detail::posix::open_to_read(path_);
  if (fd < 0) fail(path_, ": cannot open: ", detail::posix::errno_text(errno));
  detail::posix::file_status status;
  int code = detail::posix::status(fd, status) == 0 ? 0 : errno;
  if (status.regular && status.size > 0) {
    data_ = detail::posix::map(fd, status.size);
    if (data_)
      size_ = status.size;
    else
      code = errno;
  }
  detail::posix::close(fd);
  require(code == 0, path_, ": cannot map: ", detail::posix::errno_text(code));
  require(status.regular, path_, status.folder ? ": is a directory" : ": is not a regular file");
  require(!detail::is_lfs_pointer(text()), path_, ": is a Git LFS pointer, not the file");
}

DISTIL_XLSTM_INLINE mapped_file::~mapped_file() {
  if (data_) detail::posix::unmap(data_, size_);
}

}  // namespace distil_xlstm::io
