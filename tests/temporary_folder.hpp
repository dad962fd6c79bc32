#pragma once

#include <stdlib.h>

#include <filesystem>
#include <string>

#include <boost/test/unit_test.hpp>

namespace distil_xlstm {

/// A folder that goes when the test does. Its name has a blank in it, as a user's may.
struct temporary_folder {
  std::filesystem::path path;
  temporary_folder() {
    std::string name = (std::filesystem::temp_directory_path() / "distil program XXXXXX").string();
    BOOST_REQUIRE(::mkdtemp(name.data()));
    path = name;
  }
  temporary_folder(const temporary_folder&) = delete;
  temporary_folder& operator=(const temporary_folder&) = delete;
  ~temporary_folder() { std::filesystem::remove_all(path); }
  std::filesystem::path operator/(const std::string& name) const { return path / name; }
};

}  // namespace distil_xlstm
