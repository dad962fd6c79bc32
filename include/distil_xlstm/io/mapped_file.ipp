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

DISTIL_XLSTM_INLINE mapped_file::~mapped_file() {
  if (data_) ::munmap(data_, size_);
}

}  // namespace distil_xlstm::io
