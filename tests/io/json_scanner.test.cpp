#include <boost/test/unit_test.hpp>
#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include <distil_xlstm/core/rng.hpp>
#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/io/json_scanner.hpp>

using namespace distil_xlstm;
using namespace distil_xlstm::io;
using io::detail::json_scanner;

namespace {

/// What nlohmann's reader makes of a text, and whether an object gives a key twice, of which it keeps the last.
struct reference {
  json value;
  bool valid = false, twice = false;
  explicit reference(std::string_view text) {
    std::vector<std::set<std::string>> keys;
    value = json::parse(
        text.begin(), text.end(),
        [&](int, json::parse_event_t event, json& found) {
          if (event == json::parse_event_t::object_start) keys.emplace_back();
          if (event == json::parse_event_t::object_end) keys.pop_back();
          if (event == json::parse_event_t::key) twice |= !keys.back().insert(found.get<std::string>()).second;
          return true;
        },
        false);
    valid = !value.is_discarded() && !twice;
  }
};

json value(json_scanner& in) {
  switch (in.peek()) {
    case '{': {
      json out = json::object();
      in.object([&](const std::string& key) { out[key] = value(in); });
      return out;
    }
    case '[': {
      json out = json::array();
      in.array([&] { out.push_back(value(in)); });
      return out;
    }
    case '"': return in.string("", "");
    default: return json::parse(in.skip());
  }
}
json scanned(std::string_view text) {
  json_scanner in(text, "f");
  json out = value(in);
  in.end();
  return out;
}
bool accepts(std::string_view text) {
  try {
    json_scanner in(text, "f");
    in.skip();
    in.end();
    return true;
  } catch (const error& e) {
    BOOST_TEST(std::string(e.what()).find('\n') == std::string::npos);
    return false;
  }
}

constexpr const char* texts[] = {
    R"({"a" : [1, -2.5e-1, 0, -0, 1E+2, 10.25], "b\u00e9\ud83d\ude00\\\/\"\b\f\n\r\t" : {"" : null}})",
    " [true,false , null,\"\u00e9\U0001f600\", [], {}, [[[{\"x\":[]}]]]]\r\n\t",
    R"({"__metadata__":{"k":"v"},"w":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}})",
    R"("\u0000\u001f")"};

}  // namespace

BOOST_AUTO_TEST_CASE(reads_what_the_library_reads) {
  for (const std::string text : texts) BOOST_TEST((scanned(text) == json::parse(text)), text);
}

BOOST_AUTO_TEST_CASE(accepts_what_the_library_accepts) {
  for (const std::string text : {"",
                                 " ",
                                 "{",
                                 "[1,]",
                                 "[,1]",
                                 "{\"a\"}",
                                 "{\"a\":}",
                                 "{\"a\":1,}",
                                 "{a:1}",
                                 "{1:1}",
                                 "01",
                                 "-",
                                 "+1",
                                 "1.",
                                 ".5",
                                 "1e",
                                 "1e+",
                                 "--1",
                                 "tru",
                                 "True",
                                 "nulll",
                                 "\"",
                                 "\"\\\"",
                                 "\"\\x\"",
                                 "\"\\u12\"",
                                 "\"\\u12g4\"",
                                 "\"\\ud800\"",
                                 "\"\\ud800x\"",
                                 "\"\\ud800\\u0041\"",
                                 "\"\\udc00\"",
                                 "\"\n\"",
                                 "\"\xff\"",
                                 "\"\xed\xa0\x80\"",
                                 "[1] 2",
                                 "[1]]",
                                 "1 ",
                                 "\v1",
                                 "[1 2]",
                                 "{\"a\" 1}"})
    BOOST_TEST(accepts(text) == json::accept(text), text);
  // one byte changed, put in or left out
  rng random(3);
  static constexpr std::string_view bytes = "{}[]\",:\\u01aefdlnrst.-+E \n\x80\xc3\xa9";
  for (int i = 0; i < 40000; ++i) {
    std::string text = texts[random.below(std::size(texts))];
    for (std::size_t n = 1 + random.below(2); n > 0; --n) {
      const auto at = static_cast<std::ptrdiff_t>(random.below(text.size()));
      const char c = bytes[random.below(bytes.size())];
      switch (random.below(3)) {
        case 0: text[static_cast<std::size_t>(at)] = c; break;
        case 1: text.insert(text.begin() + at, c); break;
        default: text.erase(text.begin() + at); break;
      }
    }
    const reference library(text);
    BOOST_TEST(accepts(text) == library.valid, text);
    std::optional<json> tree;
    try {
      tree = parse_json(text, "f");
    } catch (const error&) {
    }
    BOOST_TEST(tree.has_value() == library.valid, text);
    if (tree && library.valid)
      BOOST_TEST((*tree == library.value && tree->dump() == library.value.dump()), text);
  }
}

BOOST_AUTO_TEST_CASE(bounds_and_words) {
  const auto says = [](std::string part) {
    return [part](const error& e) { return std::string(e.what()).find(part) != std::string::npos; };
  };
  const std::string open(256, '['), close(256, ']');
  BOOST_TEST(accepts(open + close));
  BOOST_CHECK_EXCEPTION(scanned("[" + open + close + "]"), error, says("f: JSON nested more than 256 deep"));
  BOOST_CHECK_EXCEPTION(scanned("[1,"), error, says("f: not valid JSON at byte 3: a value is expected"));
  BOOST_CHECK_EXCEPTION(scanned(R"({"a":1,"a":2})"), error, says("f: the key \"a\" is given twice"));
  const auto integer = [](std::string_view text) {
    return json_scanner(text, "f").integer<std::uint64_t>("n", "f: x");
  };
  BOOST_TEST(integer(" 18446744073709551615") == ~std::uint64_t{0});
  BOOST_CHECK_EXCEPTION(integer("-1"), error, says("f: x: n must be a non-negative integer in range, not -1"));
  BOOST_CHECK_EXCEPTION(integer("18446744073709551616"), error, says("in range, not 18446744073709551616"));
  BOOST_CHECK_EXCEPTION(integer("1.0"), error, says("f: x: n must be an integer, not 1.0"));
  BOOST_CHECK_EXCEPTION(integer("\"1\""), error, says("n must be an integer, not \"1\""));
}
