#include <sys/resource.h>
#include <unistd.h>

#include <boost/test/unit_test.hpp>
#include <csignal>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include <distil_xlstm/io/atomic_file.hpp>
#include <distil_xlstm/io/json.hpp>
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

json nested(int depth) {
  return parse_json(
      std::string(static_cast<std::size_t>(depth), '[') + std::string(static_cast<std::size_t>(depth), ']'),
      "deep");
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

BOOST_AUTO_TEST_CASE(json_values) {
  const json j =
      parse_json(R"({"a": 3, "b": -1, "c": 1.5, "d": "x", "e": [1, 2], "f": null, "g": true, "big": 5000000000,
                                "o": {"x": [[1], [2, 3]], "y": {}}})",
                 "f.json");
  BOOST_TEST(j == json::parse(j.dump()));
  BOOST_TEST(get<int>(j, "a", "f.json") == 3);
  BOOST_TEST(get<double>(j, "a", "f.json") == 3.0);
  BOOST_TEST(get<float>(j, "c", "f.json") == 1.5f);
  BOOST_TEST(get<bool>(j, "g", "f.json"));
  BOOST_TEST(get<std::string>(j, "d", "f.json") == "x");
  BOOST_TEST(get<std::int64_t>(j, "big", "f.json") == 5000000000);
  BOOST_TEST((get<std::vector<int>>(j, "e", "f.json") == std::vector<int>{1, 2}));
  BOOST_TEST((get<std::vector<std::vector<int>>>(member(j, "o", "f.json"), "x", "f.json")[1] ==
              std::vector<int>{2, 3}));
  BOOST_TEST(get_or(j, "none", "f.json", 7) == 7);
  BOOST_TEST(get_or(j, "f", "f.json", 7) == 7);
  BOOST_TEST(get_or(j, "a", "f.json", 7) == 3);
  BOOST_CHECK_EXCEPTION(get<int>(j, "big", "f.json"), error, says("f.json: big must be an integer in range"));
  BOOST_CHECK_EXCEPTION(get<unsigned>(j, "b", "f.json"), error, says("b must be a non-negative"));
  BOOST_CHECK_EXCEPTION(get<int>(j, "c", "f.json"), error, says("c must be an integer, not 1.5"));
  BOOST_CHECK_EXCEPTION(get<int>(j, "g", "f.json"), error, says("g must be an integer, not true"));
  BOOST_CHECK_EXCEPTION(get<bool>(j, "a", "f.json"), error, says("a must be true or false, not 3"));
  BOOST_CHECK_EXCEPTION(get<std::string>(j, "a", "f.json"), error, says("a must be a string"));
  BOOST_CHECK_EXCEPTION(get_or<double>(j, "d", "f.json", 1), error, says("d must be a number"));
  BOOST_CHECK_EXCEPTION(get<int>(j, "none", "f.json"), error, says("f.json: none is missing"));
  BOOST_CHECK_EXCEPTION(get<int>(j["e"], "a", "f.json"), error, says("f.json", "array"));
  BOOST_CHECK_EXCEPTION(get<std::vector<int>>(j, "a", "f.json"), error, says("a must be an array"));
}

BOOST_AUTO_TEST_CASE(json_that_is_refused) {
  BOOST_CHECK_NO_THROW(nested(256));
  BOOST_CHECK_EXCEPTION(nested(257), error, says("deep: ", "nested more than 256"));
  BOOST_CHECK_THROW(nested(1000000), error);
  for (const char* text : {"", "{", "[1,]", "{\"a\":1,}", "nul", "[1] x", "\"\xff\"", "{\"a\":1e999}", "{1:2}",
                           "\"\n\"", "[\"\\ud800\"]"})
    BOOST_CHECK_EXCEPTION(parse_json(text, "f.json"), error, says("f.json: not valid JSON at byte"));
  BOOST_CHECK_EXCEPTION(parse_json(R"({"a": {"b": 1, "b": 2}})", "f.json"), error,
                        says("\"b\" is given twice"));
  BOOST_CHECK_NO_THROW(parse_json(R"({"a": {"b": 1}, "c": {"b": 2}})", "f.json"));
  folder f;
  write_text_atomically(f.path / "x.json", " {\"a\": [1, 2.5, \"\\u00e9\", null]} ");
  BOOST_TEST((read_json_file(f.path / "x.json") == json{{"a", {1, 2.5, "\u00e9", nullptr}}}));
  BOOST_CHECK_EXCEPTION(read_json_file(f.path / "y.json"), error, says("y.json"));
}
