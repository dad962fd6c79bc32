#pragma once

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include "common.hpp"
#include "processes.hpp"

namespace program {

/// Keeps two runs out of one folder, which is made where it is not there. Of several processes rank 0 does.
class folder_lock {
 public:
  explicit folder_lock(const fs::path& folder) {
    if (!leads()) return;
    fs::create_directories(folder);
    const auto path = (folder / ".lock").string();
    file_ = ::open(path.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0644);
    dx::require(file_ >= 0, path, ": cannot be created");
    dx::require(::flock(file_, LOCK_EX | LOCK_NB) == 0, folder.string(), ": another run is writing there");
  }
  ~folder_lock() {
    if (file_ >= 0) ::close(file_);
  }
  folder_lock(const folder_lock&) = delete;
  folder_lock& operator=(const folder_lock&) = delete;

 private:
  int file_ = -1;
};

}  // namespace program
