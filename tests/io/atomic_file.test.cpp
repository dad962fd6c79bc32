#include <sys/resource.h>
#include <unistd.h>

#include <boost/test/unit_test.hpp>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include <distil_xlstm/io/atomic_file.hpp>
#include <distil_xlstm/io/mapped_file.hpp>

using namespace distil_xlstm;
using namespace distil_xlstm::io;
namespace fs = std::filesystem;

namespace {

struct folder {
  fs::path path = fs::temp_directory_path() / ("distil_xlstm_atomic_file_" + std::to_string(::getpid()));
  folder() {
    fs::remove_all(path);
    fs::create_directory(path);
  }
  ~folder() { fs::remove_all(path); }
  std::size_t files() const {
    return static_cast<std::size_t>(std::distance(fs::directory_iterator(path), fs::directory_iterator()));
  }
};

std::string content(const fs::path& path) {
  std::ostringstream out;
  out << std::ifstream(path, std::ios::binary).rdbuf();
  return out.str();
}

/// While it lives no file of the process grows beyond `bytes`: writes fail as on a full disk.
struct full_disk {
  rlimit before{};
  explicit full_disk(rlim_t bytes) {
    std::signal(SIGXFSZ, SIG_IGN);
    ::getrlimit(RLIMIT_FSIZE, &before);
    rlimit now = before;
    now.rlim_cur = bytes;
    ::setrlimit(RLIMIT_FSIZE, &now);
  }
  ~full_disk() { ::setrlimit(RLIMIT_FSIZE, &before); }
};

auto says(std::string part, std::string other = "") {
  return [=](const error& e) {
    const std::string what = e.what();
    BOOST_TEST_MESSAGE(what);
    return what.find(part) != what.npos && what.find(other) != what.npos && what.find('\n') == what.npos;
  };
}

}  // namespace

BOOST_AUTO_TEST_CASE(writes_and_replaces) {
  folder f;
  const auto path = f.path / "a.txt";
  write_text_atomically(path, "one");
  BOOST_TEST(content(path) == "one");
  std::string large;
  {
    atomic_file file(path);
    for (int i = 0; i < 100000; ++i) {
      const std::string line = "line " + std::to_string(i) + "\n";
      file.write(line);
      large += line;
    }
    file.write(large.data(), large.size());  // larger than the buffer, while the buffer is not empty
    BOOST_TEST(content(path) == "one");
    BOOST_TEST(file.size() == 2 * large.size());
    file.commit();
    BOOST_CHECK_THROW(file.write("x"), error);
    BOOST_CHECK_THROW(file.commit(), error);
  }
  BOOST_TEST((content(path) == large + large));
  BOOST_TEST(f.files() == 1u);
  write_text_atomically(path, "");
  BOOST_TEST(fs::file_size(path) == 0u);
}

BOOST_AUTO_TEST_CASE(without_commit_nothing_changes) {
  folder f;
  const auto path = f.path / "a.txt";
  write_text_atomically(path, "old");
  { atomic_file(path).write("new"); }
  BOOST_TEST(content(path) == "old");
  BOOST_TEST(f.files() == 1u);
}

BOOST_AUTO_TEST_CASE(full_disk_keeps_the_old_file) {
  folder f;
  const auto path = f.path / "a.txt";
  write_text_atomically(path, "old");
  const std::string large(1 << 20, 'x');
  {
    full_disk limit(5000);
    BOOST_CHECK_EXCEPTION(write_text_atomically(path, large), error, says(path.string(), "cannot write"));
    BOOST_CHECK_EXCEPTION(write_text_atomically(path, large.substr(0, 6000)), error,
                          says(path.string(), "too large"));
    atomic_file file(path);
    BOOST_CHECK_THROW(file.write(large), error);
    BOOST_CHECK_EXCEPTION(file.commit(), error, says("had failed"));
    BOOST_CHECK_EXCEPTION(file.write("x"), error, says("had failed"));
  }
  BOOST_TEST(content(path) == "old");
  BOOST_TEST(f.files() == 1u);
}

BOOST_AUTO_TEST_CASE(places_that_cannot_be_written) {
  folder f;
  const auto nowhere = f.path / "no" / "where.txt";
  BOOST_CHECK_EXCEPTION(write_text_atomically(nowhere, "x"), error, says(nowhere.string(), "No such file"));
  fs::create_directory(f.path / "d");
  BOOST_CHECK_EXCEPTION(write_text_atomically(f.path / "d", "x"), error, says("cannot rename", "directory"));
  BOOST_TEST(f.files() == 1u);
}

BOOST_AUTO_TEST_CASE(devices_are_written_and_not_replaced) {
  folder f;
  // By other names: what replaced its target would replace the link.
  fs::create_symlink("/dev/null", f.path / "null");
  fs::create_symlink("/dev/full", f.path / "full");
  write_text_atomically(f.path / "null", "x");
  BOOST_CHECK_EXCEPTION(write_text_atomically(f.path / "full", "x"), error, says("full", "cannot write"));
  BOOST_TEST(fs::is_symlink(f.path / "null"));
  BOOST_TEST(fs::is_symlink(f.path / "full"));
  BOOST_TEST(f.files() == 2u);
}

BOOST_AUTO_TEST_CASE(mapping) {
  folder f;
  const auto path = f.path / "m";
  write_text_atomically(path, "abc");
  mapped_file a(path);
  BOOST_TEST(a.path() == path.string());
  BOOST_TEST(a.bytes().size() == 3u);
  const auto* where = a.bytes().data();
  mapped_file b(std::move(a));
  BOOST_TEST(b.bytes().data() == where);
  BOOST_TEST(a.bytes().empty());
  a = std::move(b);
  BOOST_TEST(std::to_integer<char>(a.bytes()[2]) == 'c');
  write_text_atomically(path, "replaced");
  BOOST_TEST(std::to_integer<char>(a.bytes()[2]) == 'c');  // the mapping keeps the old file
  write_text_atomically(path, "");
  BOOST_TEST(mapped_file(path).bytes().empty());
  BOOST_CHECK_EXCEPTION(mapped_file(f.path), error, says(f.path.string(), "is a directory"));
  BOOST_CHECK_EXCEPTION(mapped_file("/dev/null"), error, says("not a regular file"));
  BOOST_CHECK_EXCEPTION(mapped_file(f.path / "none"), error, says("none: cannot open", "No such file"));
}
