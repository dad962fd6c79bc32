#include <boost/test/unit_test.hpp>
#include <string>
#include <string_view>

#include <distil_xlstm/core/rng.hpp>
#include <distil_xlstm/io/utf8.hpp>

using namespace distil_xlstm;
using namespace distil_xlstm::io;
using namespace std::string_view_literals;

namespace {

std::string character(std::uint32_t c) {
  const auto low = [](std::uint32_t x) { return static_cast<char>(0x80 | (x & 0x3f)); };
  if (c < 0x80) return {static_cast<char>(c)};
  if (c < 0x800) return {static_cast<char>(0xc0 | c >> 6), low(c)};
  if (c < 0x10000) return {static_cast<char>(0xe0 | c >> 12), low(c >> 6), low(c)};
  return {static_cast<char>(0xf0 | c >> 18), low(c >> 12), low(c >> 6), low(c)};
}

}  // namespace

BOOST_AUTO_TEST_CASE(every_code_point) {
  std::string all;
  for (std::uint32_t c = 0; c < 0x110000; ++c) {
    const std::string s = character(c);
    const bool surrogate = c >= 0xd800 && c < 0xe000;
    if (is_valid_utf8(s) == surrogate) BOOST_ERROR("code point " << c);
    if (surrogate) continue;
    all += s;
    for (std::size_t n = 1; n < s.size(); ++n)
      if (incomplete_utf8_tail(std::string_view(s).substr(0, n)) != n) BOOST_ERROR("beginning of " << c);
    if (incomplete_utf8_tail(s) != 0) BOOST_ERROR("tail of " << c);
  }
  BOOST_TEST(is_valid_utf8(all));
  BOOST_TEST(replace_invalid_utf8(all) == all);
}

BOOST_AUTO_TEST_CASE(ill_formed) {
  const std::pair<std::string_view, std::string_view> cases[] = {
      {"\x80"sv, "\ufffd"},
      {"\xc0\xaf"sv, "\ufffd\ufffd"},                      // overlong, two bytes
      {"\xe0\x80\xaf"sv, "\ufffd\ufffd\ufffd"},            // overlong, three
      {"\xf0\x80\x80\xaf"sv, "\ufffd\ufffd\ufffd\ufffd"},  // overlong, four
      {"\xed\xa0\x80"sv, "\ufffd\ufffd\ufffd"},            // a surrogate
      {"\xf4\x90\x80\x80"sv, "\ufffd\ufffd\ufffd\ufffd"},  // above U+10FFFF
      {"\xf5\xff"sv, "\ufffd\ufffd"},
      {"\xe2\x82"sv, "\ufffd"},                        // cut
      {"\xe2\x82(\xf0\x9f\x98)"sv, "\ufffd(\ufffd)"},  // maximal subparts
      {"\xf1\x80\x80\xe1\x80\xc2"sv, "\ufffd\ufffd\ufffd"},
  };
  for (const auto& [bytes, want] : cases) {
    BOOST_TEST(first_invalid_utf8(bytes) == 0u);
    BOOST_TEST(replace_invalid_utf8(bytes) == want);
    const std::string longer = "0123456789 caf\u00e9 " + std::string(bytes);
    BOOST_TEST(first_invalid_utf8(longer) == longer.size() - bytes.size());
  }
  BOOST_TEST(is_valid_utf8(""));
  BOOST_TEST(is_valid_utf8("a\0b"sv));
}

BOOST_AUTO_TEST_CASE(tails) {
  BOOST_TEST(incomplete_utf8_tail("") == 0u);
  BOOST_TEST(incomplete_utf8_tail("abc") == 0u);
  BOOST_TEST(incomplete_utf8_tail("\u00e9\xc3"sv) == 1u);
  BOOST_TEST(incomplete_utf8_tail("\xc3\xc3"sv) == 1u);
  BOOST_TEST(incomplete_utf8_tail("x\xf0\x9f\x98"sv) == 3u);
  BOOST_TEST(incomplete_utf8_tail("\x80\x80\x80\x80"sv) == 0u);
  BOOST_TEST(incomplete_utf8_tail("\xed\xa0"sv) == 0u);  // can never become a character
  BOOST_TEST(incomplete_utf8_tail("\xff"sv) == 0u);
}

BOOST_AUTO_TEST_CASE(repaired_bytes_are_valid) {
  rng random(3);
  for (int i = 0; i < 20000; ++i) {
    std::string s(random.below(24), '\0');
    for (char& c : s) c = "a\x80\xbf\xc2\xe0\xa0\xed\xf0\x90\xf4\x8f\xff"[random.below(12)];
    const std::string repaired = replace_invalid_utf8(s);
    if (!is_valid_utf8(repaired) || is_valid_utf8(s) != (repaired == s)) BOOST_ERROR("case " << i);
  }
}

BOOST_AUTO_TEST_CASE(white_space_at_the_end) {
  // What Python calls white space: [chr(c) for c in range(0x110000) if chr(c).isspace()]
  const auto blank = [](std::uint32_t c) {
    return (c >= 0x9 && c <= 0xd) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f ||
           c == 0x3000;
  };
  for (std::uint32_t c = 0; c < 0x110000; ++c) {
    if (c >= 0xd800 && c < 0xe000) continue;
    const std::string s = character(c);
    if (trailing_white_space(s) != (blank(c) ? s.size() : 0)) BOOST_ERROR("code point " << c);
    if (trailing_white_space("a" + s + " ") != (blank(c) ? s.size() : 0) + 1) BOOST_ERROR("code point " << c);
  }
  BOOST_TEST(trailing_white_space("") == 0u);
  BOOST_TEST(trailing_white_space(" \n\u3000\t") == 6u);
  BOOST_TEST(trailing_white_space("\x85") == 0u);  // half a character
  BOOST_TEST(trailing_white_space(" a") == 0u);
}
