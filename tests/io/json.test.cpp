#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <distil_xlstm/core/rng.hpp>
#include <distil_xlstm/io/atomic_file.hpp>
#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/io/json_object.hpp>

#include "../refused.hpp"
#include "../temporary_folder.hpp"

// JSON as values: read, taken by type, and made of lists. What a text may be, json_scanner.test.cpp tries.
namespace distil_xlstm::io {
namespace {

using detail::json_object;
using detail::json_texts;

json nested(std::size_t depth) { return parse_json(std::string(depth, '[') + std::string(depth, ']'), "deep"); }

/// Characters of one to four bytes, some of which a text must escape.
std::string some_text(rng& random) {
  static const char* const characters[] = {"a",    "\"",   "\\",     "/",      "\b",     "\n",
                                           "\x1f", "\x7f", "\u00e9", "\u2028", "\ufeff", "\U0001f600"};
  std::string out;
  for (auto n = random.below(6); n > 0; --n) out += characters[random.below(std::size(characters))];
  return out;
}

json some_value(rng& random, int depth) {
  switch (random.below(depth > 0 ? 9 : 7)) {
    case 0: return nullptr;
    case 1: return random.below(2) == 1;
    case 2: return random();
    case 3: return -static_cast<std::int64_t>(random.below(std::uint64_t{1} << 62)) - 1;
    case 4: return std::ldexp(random.normal(), static_cast<int>(random.below(2000)) - 1000);
    case 5: return static_cast<double>(random.below(1000));
    case 6: return some_text(random);
    case 7: {
      json out = json::array();
      for (auto n = random.below(4); n > 0; --n) out.push_back(some_value(random, depth - 1));
      return out;
    }
    default: {
      json out = json::object();
      for (auto n = random.below(4); n > 0; --n) out[some_text(random)] = some_value(random, depth - 1);
      return out;
    }
  }
}

}  // namespace

BOOST_AUTO_TEST_CASE(what_is_written_is_read) {
  rng random(1);
  for (int i = 0; i < 3000; ++i) {
    const json value = some_value(random, 4);
    for (const int indent : {-1, 2})
      for (const bool ascii : {false, true}) {
        const std::string text = value.dump(indent, ' ', ascii);
        const json back = parse_json(text, "f");
        BOOST_TEST((back == value && back.dump(indent, ' ', ascii) == text), text);
      }
  }
}

BOOST_AUTO_TEST_CASE(numbers) {
  const auto read = [](const char* text) { return parse_json(text, "f"); };
  // Whole ones exactly, as far as 64 bits go; what is written as a fraction is one.
  BOOST_TEST(get<std::uint64_t>(read(R"({"n": 18446744073709551615})"), "n", "f") == ~std::uint64_t{0});
  BOOST_TEST(get<std::int64_t>(read(R"({"n": -9223372036854775808})"), "n", "f") ==
             std::numeric_limits<std::int64_t>::min());
  BOOST_TEST(read("18446744073709551616").is_number_float());
  BOOST_TEST(read("-9223372036854775809").is_number_float());
  BOOST_TEST(read("9007199254740993").dump() == "9007199254740993");
  BOOST_TEST(read("1.0").is_number_float());
  BOOST_TEST(read("1e0").is_number_float());
  BOOST_TEST(read("-0").is_number_integer());
  BOOST_TEST(std::signbit(read("-0.0").get<double>()));
  BOOST_TEST(read("0.1").get<double>() == 0.1);
  BOOST_TEST(read("1.7976931348623157e308").get<double>() == std::numeric_limits<double>::max());
  BOOST_TEST(read("4.9e-324").get<double>() == std::numeric_limits<double>::denorm_min());
  for (const char* beyond : {"1e309", "-1e309", "[1e999]", "1e-400"})
    refused([&] { read(beyond); }, "a number beyond a double's range");
  for (const char* none : {"NaN", "nan", "Infinity", "-Infinity", "-inf", "0x10", "1_000", "1,5"})
    refused([&] { read(none); }, "f: not valid JSON at byte");
  // What is not finite is written as null, which no number is read from.
  for (const double x : {std::nan(""), double{INFINITY}, -double{INFINITY}}) {
    const json written = parse_json(json_object({{"x", x}, {"of", std::vector{1.0, x}}}).dump(), "f");
    BOOST_TEST(written.dump() == R"({"of":[1.0,null],"x":null})");
    refused([&] { get<double>(written, "x", "f"); }, "f: x must be a number, not null");
    refused([&] { get<std::vector<double>>(written, "of", "f"); }, "f: of must be a number, not null");
  }
}

BOOST_AUTO_TEST_CASE(values_by_type) {
  const json j =
      parse_json(R"({"a": 3, "b": -1, "c": 1.5, "d": "x", "e": [1, 2], "f": null, "g": true, "big": 5000000000,
                     "byte": 255, "huge": 18446744073709551615, "o": {"x": [[1], [2, 3]], "y": {}}})",
                 "f.json");
  BOOST_TEST(get<int>(j, "a", "f.json") == 3);
  BOOST_TEST(get<double>(j, "a", "f.json") == 3.0);
  BOOST_TEST(get<float>(j, "c", "f.json") == 1.5f);
  BOOST_TEST(get<bool>(j, "g", "f.json"));
  BOOST_TEST(get<std::string>(j, "d", "f.json") == "x");
  BOOST_TEST(get<std::int64_t>(j, "big", "f.json") == 5000000000);
  BOOST_TEST(get<std::uint8_t>(j, "byte", "f.json") == 255);
  BOOST_TEST((get<json>(j, "o", "f.json") == j["o"]));
  BOOST_TEST((get<std::vector<int>>(j, "e", "f.json") == std::vector<int>{1, 2}));
  BOOST_TEST((get<std::vector<std::vector<int>>>(member(j, "o", "f.json"), "x", "f.json")[1] ==
              std::vector<int>{2, 3}));
  BOOST_TEST(get_or(j, "none", "f.json", 7) == 7);
  BOOST_TEST(get_or(j, "f", "f.json", 7) == 7);
  BOOST_TEST(get_or(j, "a", "f.json", 7) == 3);
  BOOST_TEST(is_text(j["d"], "x"));
  for (const char* other : {"", "X", "xx"}) BOOST_TEST(!is_text(j["d"], other));
  BOOST_TEST(!is_text(j["a"], "3"));

  refused([&] { get<int>(j, "big", "f.json"); }, "f.json: big must be an integer in range, not 5000000000");
  refused([&] { get<std::int64_t>(j, "huge", "f.json"); }, "huge must be an integer in range");
  refused([&] { get<std::int8_t>(j, "byte", "f.json"); }, "byte must be an integer in range, not 255");
  refused([&] { get<unsigned>(j, "b", "f.json"); }, "b must be a non-negative integer in range, not -1");
  refused([&] { get<int>(j, "c", "f.json"); }, "c must be an integer, not 1.5");
  refused([&] { get<int>(j, "g", "f.json"); }, "g must be an integer, not true");
  refused([&] { get<bool>(j, "a", "f.json"); }, "a must be true or false, not 3");
  refused([&] { get<std::string>(j, "a", "f.json"); }, "a must be a string, not 3");
  refused([&] { get_or<double>(j, "d", "f.json", 1); }, "d must be a number, not \"x\"");
  refused([&] { get<int>(j, "none", "f.json"); }, "f.json: none is missing");
  refused([&] { get<int>(j, "f", "f.json"); }, "f must be an integer, not null");
  refused([&] { get<int>(j["e"], "a", "f.json"); }, "f.json: a JSON object with a is expected, not array");
  refused([&] { get_or(j["a"], "a", "f.json", 1); }, "f.json: a JSON object with a is expected, not number");
  refused([&] { get<std::vector<int>>(j, "a", "f.json"); }, "a must be an array, not 3");
  refused([&] { get<std::vector<int>>(j["o"], "x", "f.json"); }, "x must be an integer, not [1]");
  // One line, however long a value is and whatever is in it.
  const json bad = {{"k\n", std::string(1000, 'v') + "\n\xff"}};
  refused([&] { get<int>(bad, "k\n", "f.json"); },
          "f.json: k? must be an integer, not \"" + std::string(59, 'v') + "...");
}

BOOST_AUTO_TEST_CASE(texts_that_are_refused) {
  BOOST_CHECK_NO_THROW(nested(256));
  refused([] { nested(257); }, "deep: JSON nested more than 256");
  refused([] { nested(1000000); }, "nested more than 256");
  for (const char* text :
       {"", "{", "[1,]", "{\"a\":1,}", "nul", "[1] x", "\"\xff\"", "{1:2}", "\"\n\"", "[\"\\ud800\"]"})
    refused([&] { parse_json(text, "f.json"); }, "f.json: not valid JSON at byte");
  refused([] { parse_json(R"({"a": {"b": 1, "\u0062": 2}})", "f.json"); },
          "f.json: the key \"b\" is given twice");
  BOOST_CHECK_NO_THROW(parse_json(R"({"a": {"b": 1}, "c": {"b": 2}})", "f.json"));
  refused([] { parse_json("\xff\xfe[\0]\0", "f.json"); }, "f.json: begins with the byte order mark of UTF-16");
  BOOST_TEST((parse_json("\xef\xbb\xbf[1]", "f.json") == json{1}));
}

BOOST_AUTO_TEST_CASE(files) {
  const temporary_folder folder;
  write_text_atomically(folder / "x.json", " {\"a\": [1, 2.5, \"\\u00e9\", null]} ");
  BOOST_TEST((read_json_file(folder / "x.json") == json{{"a", {1, 2.5, "\u00e9", nullptr}}}));
  refused([&] { read_json_file(folder / "y.json"); }, "y.json");
  write_text_atomically(folder / "z.json", "[");
  refused([&] { read_json_file(folder / "z.json"); }, "z.json: not valid JSON at byte 1");
}

BOOST_AUTO_TEST_CASE(objects_of_lists) {
  const std::string text = "a \"b\"\n";
  const json made = json_object({{"z", nullptr},
                                 {"text", text},
                                 {"view", std::string_view(text).substr(0, 1)},
                                 {"literal", "false"},
                                 {"truth", false},
                                 {"int", -3},
                                 {"index", index{5000000000}},
                                 {"large", ~std::uint64_t{0}},
                                 {"whole", 2.0},
                                 {"numbers", std::vector<index>{3, 1, 2}},
                                 {"none", std::vector<index>{}},
                                 {"object", json_object({{"b", 1}, {"a", json_object({})}})},
                                 {"texts", json_texts({"b", "", "a"})},
                                 {"json", json::array({1, "x"})},
                                 {"", 0}});
  // Sorted by name, whatever the order that they were given in; nothing becomes of another type.
  BOOST_TEST(made.dump() ==
             R"({"":0,"index":5000000000,"int":-3,"json":[1,"x"],"large":18446744073709551615,)"
             R"("literal":"false","none":[],"numbers":[3,1,2],"object":{"a":{},"b":1},)"
             R"("text":"a \"b\"\n","texts":["b","","a"],"truth":false,"view":"a","whole":2.0,"z":null})");
  BOOST_TEST((parse_json(made.dump(), "f") == made));
  BOOST_TEST((made.dump() == json{{"z", nullptr},
                                  {"text", text},
                                  {"view", "a"},
                                  {"literal", "false"},
                                  {"truth", false},
                                  {"int", -3},
                                  {"index", 5000000000},
                                  {"large", ~std::uint64_t{0}},
                                  {"whole", 2.0},
                                  {"numbers", {3, 1, 2}},
                                  {"none", json::array()},
                                  {"object", {{"b", 1}, {"a", json::object()}}},
                                  {"texts", {"b", "", "a"}},
                                  {"json", {1, "x"}},
                                  {"", 0}}
                                 .dump()));
  // What nlohmann's lists take for one another: pairs are no object, and nothing is an object.
  BOOST_TEST(json_object({}).dump() == "{}");
  BOOST_TEST(json_texts({}).dump() == "[]");
  BOOST_TEST(json_texts({"a", "b"}).dump() == R"(["a","b"])");
  BOOST_TEST(json_object({{"pair", json_texts({"a", "b"})}}).dump() == R"({"pair":["a","b"]})");
  // Of a name given twice the last counts.
  BOOST_TEST(json_object({{"a", 1}, {"b", 2}, {"a", "x"}}).dump() == R"({"a":"x","b":2})");
  // What is no UTF-8 is no text.
  BOOST_CHECK_THROW(json_object({{"a", "\xff"}}).dump(), json::exception);
}

}  // namespace distil_xlstm::io
