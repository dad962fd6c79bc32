#include <unistd.h>

#include <boost/test/unit_test.hpp>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <string_view>

#include <distil_xlstm/core/rng.hpp>
#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/io/read_text.hpp>

using namespace distil_xlstm;
using namespace distil_xlstm::io;
using namespace std::string_literals;

namespace {

auto says(const std::string& whole) {
  return [=](const error& e) {
    BOOST_TEST_MESSAGE(e.what());
    return std::string_view(e.what()).starts_with("a.txt: " + whole);
  };
}

/// The same, one byte after another.
text_content slowly(const std::string& bytes) {
  text_content out;
  for (std::size_t i = bytes.starts_with("\xef\xbb\xbf") ? 3 : 0; i < bytes.size(); ++i) {
    if (bytes.compare(i, 2, "\r\n") == 0) ++out.crlf, ++i;
    out.text += bytes[i];
  }
  return out;
}

}  // namespace

BOOST_AUTO_TEST_CASE(marks_and_line_ends) {
  const std::string mark = "\xef\xbb\xbf";
  const std::pair<std::string, std::string> cases[] = {
      {"", ""},
      {mark, ""},
      {"a\nb\n", "a\nb\n"},
      {mark + "a\r\nb\r\n", "a\nb\n"},
      {"\r\n\r\n", "\n\n"},
      {"a\rb\n\rc\r", "a\rb\n\rc\r"},  // carriage returns that end no line of this kind
      {"a\r\r\nb", "a\r\nb"},
      {mark + mark + "a", "\ufeffa"},  // the second is a character of the text
      {"a" + mark + "b", "a\ufeffb"},
      {"\u2028\u0085\x1b\x7f", "\u2028\u0085\x1b\x7f"}};
  for (const auto& [bytes, want] : cases) BOOST_TEST(clean_text(bytes, "a.txt").text == want);
  BOOST_TEST(clean_text("a\r\nb\r\r\n\n", "a.txt").crlf == 2);
  rng random(1);
  static const char* const parts[] = {"\r\n", "\n", "\r", "word", "\u00e9", "\U0001f600", "\xef\xbb\xbf", " "};
  for (int n = 0; n < 2000; ++n) {
    std::string bytes;
    for (auto k = random.below(30); k > 0; --k) bytes += parts[random.below(std::size(parts))];
    const auto got = clean_text(bytes, "a.txt"), want = slowly(bytes);
    BOOST_TEST(got.text == want.text);
    BOOST_TEST(got.crlf == want.crlf);
  }
}

BOOST_AUTO_TEST_CASE(what_is_no_text) {
  const std::pair<std::string, std::string> cases[] = {
      {"\xff\xfe"s + "a\0"s, "begins with the byte order mark of UTF-16, little endian"},
      {"\xfe\xff\0a"s, "begins with the byte order mark of UTF-16, big endian"},
      {"\xff\xfe\0\0a\0\0\0"s, "begins with the byte order mark of UTF-32, little endian"},
      {"\0\0\xfe\xff\0\0\0a"s, "begins with the byte order mark of UTF-32, big endian"},
      {"a\0b\0"s, "a NUL, which no text has, at byte 1 (line 1, byte 1)"},
      {"ab\r\nc\0"s, "a NUL, which no text has, at byte 5 (line 2, byte 1)"},
      {"the rain \xe9", "not valid UTF-8 at byte 9 (line 1, byte 9)"},
      {"\xef\xbb\xbf\xe9", "not valid UTF-8 at byte 3 (line 1, byte 3)"},  // of the file
      {"a\nb\xed\xa0\x80", "not valid UTF-8 at byte 3 (line 2, byte 1)"},
      {"a\xe2\x82\0"s, "not valid UTF-8 at byte 1"},
      {"\x1f\x8b\x08", "is compressed by gzip"},
      {"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "is a Git LFS pointer"}};
  for (const auto& [bytes, want] : cases) BOOST_CHECK_EXCEPTION(clean_text(bytes, "a.txt"), error, says(want));
}

BOOST_AUTO_TEST_CASE(json_is_a_text) {
  BOOST_TEST(parse_json("\xef\xbb\xbf{\"a\":\r\n1}", "a.txt").at("a") == 1);
  BOOST_CHECK_EXCEPTION(parse_json("\xff\xfe{\0}\0"s, "a.txt"), error,
                        says("begins with the byte order mark of UTF-16"));
  BOOST_CHECK_EXCEPTION(parse_json("{}\0"s, "a.txt"), error, says("not valid JSON at byte 2: a NUL"));
}

BOOST_AUTO_TEST_CASE(files_and_streams) {
  const auto path = std::filesystem::temp_directory_path() / ("read text " + std::to_string(::getpid()));
  // Larger than every part that is read at once.
  std::string lines, want;
  for (int i = 0; i < 400'000; ++i) lines += std::to_string(i) + "\r\n", want += std::to_string(i) + "\n";
  std::ofstream(path, std::ios::binary) << lines;
  const auto file = read_text(path);
  BOOST_TEST((file.text == want));
  BOOST_TEST(file.crlf == 400'000);
  std::istringstream stream(lines), nothing;
  BOOST_TEST((read_text(stream, "stdin").text == want));
  BOOST_TEST(read_text(nothing, "stdin").text == "");
  std::filesystem::remove(path);
  const auto refuses = [](const std::filesystem::path& p, const std::string& part) {
    BOOST_CHECK_EXCEPTION(read_text(p), error, [&](const error& e) {
      return std::string_view(e.what()) == p.string() + ": " + part;
    });
  };
  refuses(path, "cannot be read: no such file, or no permission");
  refuses(std::filesystem::temp_directory_path(), "is a folder, a text is wanted");
}
