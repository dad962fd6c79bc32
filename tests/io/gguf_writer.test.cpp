#include <boost/test/unit_test.hpp>

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include <distil_xlstm/core/rng.hpp>
#include <distil_xlstm/io/gguf_writer.hpp>
#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/io/parse_tokenizer_json.hpp>
#include <distil_xlstm/io/read_gguf_tokenizer.hpp>
#include <distil_xlstm/io/store_as.hpp>
#include <distil_xlstm/io/tokenizer.hpp>
#include <distil_xlstm/io/write_gguf_tokenizer.hpp>

#include "../refused.hpp"
#include "../temporary_folder.hpp"

// Blocks of few bits, and the GGUF files that hold them.
namespace distil_xlstm::io {
namespace {

namespace fs = std::filesystem;
const fs::path golden = fs::path(DISTIL_XLSTM_TEST_DATA) / "golden";

template <std::size_t Bytes>
std::array<std::uint8_t, Bytes> packed(dtype type, const std::vector<float>& x) {
  std::array<std::uint8_t, Bytes> out{};
  BOOST_REQUIRE(row_bytes(type, std::ssize(x)) == std::ssize(out));
  BOOST_REQUIRE(store_as(type, x.data(), std::ssize(x), out.data()));
  return out;
}

}  // namespace

BOOST_AUTO_TEST_CASE(halves) {
  for (std::uint32_t h = 0; h < 65536; ++h) {
    const auto half = static_cast<std::uint16_t>(h);
    const float x = half_to_float(half);
    if (std::isnan(x)) {
      BOOST_TEST(std::isnan(half_to_float(half_of(x))));
      continue;
    }
    if (half_of(x) != half) BOOST_TEST(half_of(x) == half, h);
    // Halfway to the next by magnitude goes to the even one, less to this, more to that.
    if ((half & 0x7fffu) >= 0x7bffu) continue;
    const float next = half_to_float(static_cast<std::uint16_t>(half + 1)), middle = x + (next - x) / 2;
    const auto even = static_cast<std::uint16_t>(half % 2 == 0 ? half : half + 1);
    const bool good = half_of(middle) == even && half_of(std::nextafter(middle, x)) == half &&
                      half_of(std::nextafter(middle, next)) == half + 1;
    if (!good) BOOST_TEST(good, h);
  }
  BOOST_TEST(half_of(65519.f) == 0x7bffu);
  BOOST_TEST(half_of(65520.f) == 0x7c00u);
  BOOST_TEST(half_of(-1e30f) == 0xfc00u);
  BOOST_TEST(half_of(1e-30f) == 0u);
  BOOST_TEST(half_of(-0.f) == 0x8000u);
}

BOOST_AUTO_TEST_CASE(blocks_by_hand) {
  std::vector<float> x(32);
  for (int i = 0; i < 32; ++i) x[static_cast<std::size_t>(i)] = static_cast<float>(i - 16) * 0.25f;
  x[31] = -127 * 0.25f;
  {
    const auto b = packed<34>(dtype::q8_0, x);  // d = 0.25
    BOOST_TEST(b[0] == 0x00);
    BOOST_TEST(b[1] == 0x34);
    for (int i = 0; i < 31; ++i)
      BOOST_TEST(static_cast<int>(static_cast<std::int8_t>(b[static_cast<std::size_t>(2 + i)])) == i - 16);
    BOOST_TEST(static_cast<int>(static_cast<std::int8_t>(b[33])) == -127);
  }
  {
    // The largest by magnitude is -31.75: d = 3.96875, of half 0x43f0, and -31.75 becomes 0.
    const auto b = packed<18>(dtype::q4_0, x);
    BOOST_TEST(b[0] == 0xf0);
    BOOST_TEST(b[1] == 0x43);
    for (int i = 0; i < 16; ++i) {
      const auto want = [&](int j) {
        return static_cast<int>(std::floor(x[static_cast<std::size_t>(j)] / 3.96875f + 8.5f));
      };
      BOOST_TEST((b[static_cast<std::size_t>(2 + i)] & 15) == want(i));
      BOOST_TEST((b[static_cast<std::size_t>(2 + i)] >> 4) == want(i + 16));
    }
  }
  // Of a positive largest d is negative, and what rounds to 16 is 15.
  std::fill(x.begin(), x.end(), 8.f);
  x[1] = -8.f, x[2] = 0;
  const auto b = packed<18>(dtype::q4_0, x);
  BOOST_TEST(b[0] == 0x00);
  BOOST_TEST(b[1] == 0xbc);  // -1
  BOOST_TEST((b[2] & 15) == 0);
  BOOST_TEST((b[3] & 15) == 15);
  BOOST_TEST((b[4] & 15) == 8);
  // Halves go away from 0.
  std::fill(x.begin(), x.end(), 0.f);
  x[0] = 127, x[1] = 2.5f, x[2] = -2.5f, x[3] = 0.5f, x[4] = 0.49f;
  const auto halves = packed<34>(dtype::q8_0, x);
  const std::vector<int> want = {127, 3, -3, 1, 0};
  for (std::size_t i = 0; i < want.size(); ++i)
    BOOST_TEST(static_cast<int>(static_cast<std::int8_t>(halves[2 + i])) == want[i]);
}

BOOST_AUTO_TEST_CASE(rounding_loses_at_most_half_a_step) {
  rng random(3);
  for (int round = 0; round < 300; ++round) {
    const double scale = std::pow(10., random.uniform(-1, 3));
    std::vector<float> x(64), y(64);
    for (float& each : x) each = static_cast<float>(scale * random.normal());
    for (const dtype type : {dtype::q8_0, dtype::q4_0}) {
      std::vector<std::byte> blocks(static_cast<std::size_t>(row_bytes(type, 64)));
      BOOST_REQUIRE(store_as(type, x.data(), 64, blocks.data()));
      unpack(type, blocks.data(), 64, y.data());
      for (std::size_t b = 0; b < 64; b += 32) {
        float largest = 0;
        for (std::size_t i = b; i < b + 32; ++i) largest = std::max(largest, std::abs(x[i]));
        // Half a step, a whole one at the end of 16 that has no 16; and the scale's own rounding.
        const float step = type == dtype::q8_0 ? largest / 127 / 2 : largest / 8;
        for (std::size_t i = b; i < b + 32; ++i)
          if (!(std::abs(x[i] - y[i]) <= 1.01f * step + 0.001f * largest)) BOOST_TEST(y[i] == x[i]);
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(numbers_at_the_edge) {
  std::vector<float> x(32, 0.f);
  std::array<std::byte, 34> out{};
  for (const dtype type : {dtype::q8_0, dtype::q4_0}) {
    std::fill(x.begin(), x.end(), 0.f);
    std::vector<float> back(32, 1.f);
    BOOST_TEST(store_as(type, x.data(), 32, out.data()));
    unpack(type, out.data(), 32, back.data());
    BOOST_TEST(std::count(back.begin(), back.end(), 0.f) == 32);
    x[3] = std::numeric_limits<float>::denorm_min();  // its scale has no inverse
    BOOST_TEST(store_as(type, x.data(), 32, out.data()));
    unpack(type, out.data(), 32, back.data());
    BOOST_TEST(std::count(back.begin(), back.end(), 0.f) == 32);
    x[3] = 1e8f;
    BOOST_TEST(!store_as(type, x.data(), 32, out.data()));
    x[3] = std::numeric_limits<float>::infinity();
    BOOST_TEST(!store_as(type, x.data(), 32, out.data()));
    x[3] = std::numeric_limits<float>::quiet_NaN();
    BOOST_TEST(!store_as(type, x.data(), 32, out.data()));
    BOOST_CHECK_EXCEPTION(store_as(type, x.data(), 31, out.data()), error,
                          says("31 numbers are not whole blocks"));
  }
  BOOST_CHECK_EXCEPTION(store_as(dtype::q6_k, x.data(), 32, out.data()), error, says("Q6_K is not supported"));
}

BOOST_AUTO_TEST_CASE(keys_and_tensors_read_back) {
  const temporary_folder folder;
  const auto path = folder.path / "model.gguf";
  const gguf_file every(golden / "gguf/every_type.gguf");
  gguf_writer w;
  w.u32("a.u32", 4000000000u), w.f32("a.f32", 0.1f), w.boolean("a.bool", true), w.string("a.text", "h\xc3\xa9");
  w.strings("a.texts", {"", "two"});
  const std::vector<std::int32_t> numbers = {-1, 0, 7};
  w.i32s("a.numbers", numbers);
  for (const auto& [key, value] : every.keys()) w.copy(key, value);
  std::vector<float> row(96);
  std::iota(row.begin(), row.end(), -40.f);
  std::vector<std::byte> blocks(3 * 34);
  BOOST_REQUIRE(store_as(dtype::q8_0, row.data(), 96, blocks.data()));
  w.declare("m", dtype::q8_0, {3, 32});
  w.declare("v", dtype::f32, {3});
  for (const auto& t : every.tensors()) w.declare(t.name, t.dtype, t.shape);
  BOOST_CHECK_EXCEPTION(w.u32("a.u32", 1), error, says("key a.u32 is given twice"));
  BOOST_CHECK_EXCEPTION(w.declare("m", dtype::f32, {1}), error, says("tensor m is declared twice"));
  BOOST_CHECK_EXCEPTION(w.declare("n", dtype::q8_0, {3, 31}), error, says("rows of 31 are not whole blocks"));
  BOOST_CHECK_EXCEPTION(w.declare("o", dtype::i64, {3}), error, says("tensor o: I64 is not supported in GGUF"));
  BOOST_CHECK_EXCEPTION(w.declare("p", dtype::f32, {3, 0}), error, says("tensor p: the shape [3, 0]"));
  BOOST_CHECK_EXCEPTION(w.append(blocks.data(), 1), error, says("append before open"));
  w.open(path);
  BOOST_TEST(!fs::exists(path));
  BOOST_CHECK_EXCEPTION(w.u32("late", 1), error, says("key late is given after the file was opened"));
  w.append(blocks.data(), 50), w.append(blocks.data() + 50, 52);
  BOOST_CHECK_EXCEPTION(w.append(row.data(), 13), error, says("tensor v takes 12 more bytes, not 13"));
  BOOST_CHECK_EXCEPTION(w.commit(), error, says("tensor v lacks 12 bytes"));
  w.append(row.data(), 12);
  for (const auto& t : every.tensors()) w.append(t.data, t.bytes);
  BOOST_CHECK_EXCEPTION(w.append(row.data(), 1), error, says("1 bytes more than were declared"));
  w.commit();

  const gguf_file file(path);
  BOOST_TEST(file.version() == 3u);
  BOOST_TEST(file.get_u64("a.u32") == 4000000000u);
  BOOST_TEST(file.get_f64("a.f32") == static_cast<double>(0.1f));
  BOOST_TEST(file.get_bool("a.bool"));
  BOOST_TEST(file.get_string("a.text") == "h\xc3\xa9");
  BOOST_TEST(file.get_strings("a.texts").size() == 2u);
  BOOST_TEST(file.get_i32s("a.numbers") == numbers, boost::test_tools::per_element());
  for (const auto& [key, value] : every.keys()) {
    const auto* copy = file.find_key(key);
    BOOST_REQUIRE(copy);
    BOOST_TEST((copy->type == value.type && copy->bits == value.bits && copy->text == value.text));
    BOOST_TEST((copy->of == value.of && copy->count == value.count && copy->strings == value.strings));
  }
  BOOST_TEST(std::equal(blocks.begin(), blocks.end(), file.at("m").data));
  BOOST_TEST((file.at("m").shape == std::vector<index>{3, 32}));
  BOOST_TEST(file.at("v").values<float>()[2] == row[2]);
  for (const auto& t : every.tensors()) {
    const auto& copy = file.at(t.name);
    BOOST_TEST((copy.type == t.type && copy.shape == t.shape));
    BOOST_TEST(std::equal(t.data, t.data + t.bytes, copy.data));
  }
}

BOOST_AUTO_TEST_CASE(a_file_is_whole_or_not_there) {
  const temporary_folder folder;
  const auto path = folder.path / "model.gguf";
  {
    gguf_writer w;
    w.declare("v", dtype::f32, {3});
    w.open(path);
  }
  BOOST_TEST(fs::is_empty(folder.path));
  gguf_writer w;
  BOOST_CHECK_EXCEPTION(w.open(folder.path / "none/model.gguf"), error, says("cannot create"));
}

BOOST_AUTO_TEST_CASE(tokenizers_read_back) {
  for (const std::string name : {"gpt2", "smollm", "qwen2", "llama"}) BOOST_TEST_CONTEXT(name) {
      const json root = read_json_file(golden / ("tokenizer_" + name + ".json"));
      tokenizer_data d = parse_tokenizer_json(root["tokenizer"].dump(), "t.json");
      d.unknown = -1;
      d.bos = d.specials[1].id, d.eos = d.specials[2].id, d.chat_template = "a template";
      d.end_of_text = {d.specials[0].id};
      for (auto& s : d.specials) s.normalized = false;
      const auto vocabulary = std::ssize(d.tokens) + 5;
      gguf_writer w;
      try {
        write_gguf_tokenizer(w, d, vocabulary);
      } catch (const error& e) {
        // What llama.cpp takes for a control token by its text is one.
        BOOST_TEST((std::string(e.what()).find("which special tokens are control tokens") != std::string::npos),
                   e.what());
        for (auto& s : d.specials) s.control = true;
        write_gguf_tokenizer(w, d, vocabulary);
      }
      const std::string bytes = w.header();
      const gguf_file file(std::as_bytes(std::span(bytes)), "f.gguf");
      BOOST_TEST(std::ssize(file.get_strings("tokenizer.ggml.tokens")) == vocabulary);
      const tokenizer_data back = read_gguf_tokenizer(file);
      BOOST_TEST(tokenizer(back).fingerprint() == tokenizer(d).fingerprint());
      BOOST_TEST(back.bos == d.bos);
      BOOST_TEST(back.eos == d.eos);
      BOOST_TEST(back.add_bos == d.add_bos);
      BOOST_TEST(back.chat_template == d.chat_template);
      BOOST_TEST(std::count(back.end_of_text.begin(), back.end_of_text.end(), d.specials[0].id) == 1);
      const auto refuses = [&](const tokenizer_data& other, const std::string& part) {
        gguf_writer none;
        BOOST_CHECK_EXCEPTION(write_gguf_tokenizer(none, other, vocabulary), error, says(part));
      };
      tokenizer_data other = d;
      other.specials[0].normalized = true;
      refuses(other, "GGUF's keys cannot say special tokens that are looked for after normalisation");
      other = d, other.nfc = !d.nfc;
      refuses(other, "its normalisation");
      other = d, other.end_of_text = {3, 4, 5, 6};
      refuses(other, "which tokens end a text");
    }
}

}  // namespace distil_xlstm::io
