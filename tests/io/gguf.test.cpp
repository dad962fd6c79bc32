#include <unistd.h>

#include <algorithm>
#include <bit>
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include <distil_xlstm/io/gguf.hpp>
#include <distil_xlstm/io/mapped_file.hpp>
#include <distil_xlstm/io/safetensors.hpp>

using namespace distil_xlstm;
using namespace distil_xlstm::io;

namespace {

/// Bytes of a GGUF file, put together by hand.
struct maker {
  std::vector<std::byte> bytes;

  maker& raw(const void* p, std::size_t n) {
    const auto* b = static_cast<const std::byte*>(p);
    bytes.insert(bytes.end(), b, b + n);
    return *this;
  }
  template <class T>
  maker& put(std::type_identity_t<T> x) {
    return raw(&x, sizeof x);
  }
  maker& u32(std::uint32_t x) { return put<std::uint32_t>(x); }
  maker& u64(std::uint64_t x) { return put<std::uint64_t>(x); }
  maker& text(std::string_view s) { return u64(s.size()).raw(s.data(), s.size()); }
  maker& key(std::string_view k, gguf_type type) { return text(k).u32(static_cast<std::uint32_t>(type)); }
  maker& start(std::uint64_t tensors, std::uint64_t keys, std::uint32_t version = 3) {
    return raw("GGUF", 4).u32(version).u64(tensors).u64(keys);
  }
  maker& tensor(std::string_view name, const std::vector<std::uint64_t>& ne, std::uint32_t type,
                std::uint64_t offset) {
    text(name).u32(static_cast<std::uint32_t>(ne.size()));
    for (auto n : ne) u64(n);
    return u32(type).u64(offset);
  }
  maker& align(std::size_t to = 32) {
    while (bytes.size() % to) bytes.push_back(std::byte{0});
    return *this;
  }
  maker& noise(std::size_t n, std::uint32_t seed = 1) {
    for (std::size_t i = 0; i < n; ++i) {
      seed = seed * 1664525u + 1013904223u;
      bytes.push_back(static_cast<std::byte>(seed >> 24));
    }
    return *this;
  }
};

auto says(std::string part) {
  return [=](const error& e) {
    const std::string what = e.what();
    BOOST_TEST_MESSAGE(what);
    return what.find(part) != what.npos && what.starts_with("f.gguf: ") && what.find('\n') == what.npos;
  };
}

void refused(const maker& m, const std::string& part) {
  BOOST_TEST_CONTEXT(part) { BOOST_CHECK_EXCEPTION(gguf_file(m.bytes, "f.gguf"), error, says(part)); }
}

maker everything(std::uint32_t version = 3) {
  maker m;
  m.start(3, 17, version);
  m.key("u8", gguf_type::u8).put<std::uint8_t>(200);
  m.key("i8", gguf_type::i8).put<std::int8_t>(-100);
  m.key("u16", gguf_type::u16).put<std::uint16_t>(60000);
  m.key("i16", gguf_type::i16).put<std::int16_t>(-30000);
  m.key("u32", gguf_type::u32).u32(4000000000u);
  m.key("i32", gguf_type::i32).put<std::int32_t>(-2000000000);
  m.key("f32", gguf_type::f32).put<float>(1e-5f);
  m.key("bool", gguf_type::boolean).put<std::uint8_t>(1);
  m.key("string", gguf_type::string).text("h\xc3\xa9llo");
  m.key("u64", gguf_type::u64).u64(~std::uint64_t{0});
  m.key("i64", gguf_type::i64).put<std::int64_t>(-5);
  m.key("f64", gguf_type::f64).put<double>(0.1);
  m.key("strings", gguf_type::array).u32(8).u64(3).text("a").text("").text("ccc");
  m.key("i32s", gguf_type::array).u32(5).u64(2).put<std::int32_t>(-1).put<std::int32_t>(7);
  m.key("f32s", gguf_type::array).u32(6).u64(2).put<float>(1.5f).put<float>(-2.0f);
  m.key("nested", gguf_type::array).u32(9).u64(2).u32(0).u64(1).put<std::uint8_t>(9).u32(8).u64(1).text("in");
  m.key("u64s", gguf_type::array).u32(10).u64(2).u64(3).u64(std::uint64_t{1} << 40);
  m.tensor("embd", {64, 3}, 8, 0).tensor("norm", {5}, 0, 224).tensor("half", {2, 1, 3}, 1, 256);
  m.align().noise(3 * 68).align();
  for (int i = 0; i < 5; ++i) m.put<float>(static_cast<float>(i) / 2);
  m.align();
  for (std::uint16_t h : {0x3c00, 0xc000, 0x0001, 0x7c00, 0x7bff, 0x8000}) m.put<std::uint16_t>(h);
  return m;
}

}  // namespace

BOOST_AUTO_TEST_CASE(every_value_type) {
  for (std::uint32_t version : {2u, 3u}) {
    const maker m = everything(version);
    const gguf_file f(m.bytes, "f.gguf");
    BOOST_TEST(f.version() == version);
    BOOST_TEST(f.keys().size() == 17u);
    BOOST_TEST(f.keys()[8].first == "string");
    BOOST_TEST(f.get_u64("u8") == 200u);
    BOOST_TEST(f.get_i64("i8") == -100);
    BOOST_TEST(f.get_f64("i8") == -100.0);
    BOOST_TEST(f.get_u64("u16") == 60000u);
    BOOST_TEST(f.get_i64("i16") == -30000);
    BOOST_TEST(f.get_u64("u32") == 4000000000u);
    BOOST_TEST(f.get_i64("i32") == -2000000000);
    BOOST_TEST(f.get_f64("f32") == static_cast<double>(1e-5f));
    BOOST_TEST(f.get_bool("bool"));
    BOOST_TEST(f.get_string("string") == "h\xc3\xa9llo");
    BOOST_TEST(f.get_u64("u64") == ~std::uint64_t{0});
    BOOST_TEST(f.get_f64("u64") == 0x1p64);
    BOOST_TEST(f.get_i64("i64") == -5);
    BOOST_TEST(f.get_f64("f64") == 0.1);
    BOOST_TEST((f.get_strings("strings") == std::vector<std::string_view>{"a", "", "ccc"}));
    BOOST_TEST((f.get_i32s("i32s") == std::vector<std::int32_t>{-1, 7}));
    BOOST_TEST((f.get_f32s("f32s") == std::vector<float>{1.5f, -2.0f}));
    BOOST_TEST(f.find_key("nested")->nested.at(1).strings.at(0) == "in");
    BOOST_TEST(f.find_key("none") == nullptr);
    BOOST_TEST(f.get_u64_or("none", 3) == 3u);
    BOOST_TEST(f.get_u64_or("u8", 3) == 200u);
    BOOST_TEST(f.get_i64_or("none", -3) == -3);
    BOOST_TEST(f.get_f64_or("none", 0.5) == 0.5);
    BOOST_TEST(f.get_bool_or("none", true));
    BOOST_TEST(f.get_string_or("none", "x") == "x");
    BOOST_CHECK_EXCEPTION(f.get_u64("none"), error, says("key none is missing"));
    BOOST_CHECK_EXCEPTION(f.get_u64("i8"), error, says("key i8 is out of range"));
    BOOST_CHECK_EXCEPTION(f.get_i64("u64"), error, says("key u64 is out of range"));
    BOOST_CHECK_EXCEPTION(f.get_u64("f32"), error, says("key f32 is f32, not an integer"));
    BOOST_CHECK_EXCEPTION(f.get_f64("string"), error, says("key string is string, not a number"));
    BOOST_CHECK_EXCEPTION(f.get_bool("u8"), error, says("key u8 is u8, not a bool"));
    BOOST_CHECK_EXCEPTION(f.get_string_or("strings", ""), error, says("an array of string, not a string"));
    BOOST_CHECK_EXCEPTION(f.get_strings("i32s"), error, says("an array of i32, not an array of strings"));
    BOOST_CHECK_EXCEPTION(f.get_i32s("f32s"), error, says("not an array of integers"));
    BOOST_CHECK_EXCEPTION(f.get_f32s("f32"), error, says("key f32 is f32, not an array of f32"));
    BOOST_CHECK_EXCEPTION(f.get_i32s("u64s"), error, says("element 1 does not fit"));
  }
}

BOOST_AUTO_TEST_CASE(tensors) {
  const maker m = everything();
  const gguf_file f(m.bytes, "f.gguf");
  BOOST_TEST(f.tensors().size() == 3u);
  const tensor_info& embd = f.at("embd");
  BOOST_TEST((embd.shape == std::vector<distil_xlstm::index>{3, 64}));
  BOOST_TEST((embd.dtype == dtype::q8_0 && embd.type == "Q8_0" && embd.bytes == 3 * 68));
  BOOST_TEST((f.at("half").shape == std::vector<distil_xlstm::index>{3, 1, 2}));
  BOOST_TEST((f.at("norm").values<double>() == std::vector<double>{0, 0.5, 1, 1.5, 2}));
  const auto half = f.at("half").values<float>();
  BOOST_TEST((half == std::vector<float>{1.0f, -2.0f, 0x1p-24f, INFINITY, 65504.0f, 0.0f}));
  BOOST_TEST(std::signbit(half[5]));
  BOOST_TEST(f.find("none") == nullptr);
  BOOST_CHECK_EXCEPTION(f.at("none"), error, says("there is no tensor none"));
}

BOOST_AUTO_TEST_CASE(truncation_at_every_length) {
  const maker m = everything();
  for (std::size_t n = 0; n < m.bytes.size(); ++n) {
    const std::vector<std::byte> cut(m.bytes.begin(), m.bytes.begin() + static_cast<std::ptrdiff_t>(n));
    BOOST_TEST_CONTEXT(n) { BOOST_CHECK_EXCEPTION(gguf_file(cut, "f.gguf"), error, says("")); }
  }
}

BOOST_AUTO_TEST_CASE(hostile_starts) {
  refused(maker(), "not a GGUF file");
  refused(maker().raw("GGUE\3\0\0\0", 8), "not a GGUF file");
  refused(maker().start(0, 0, 1), "version 1");
  refused(maker().start(0, 0, 4), "version 4");
  refused(maker().start(0, 0, 3u << 24), "big-endian");
  BOOST_CHECK_NO_THROW(gguf_file(maker().start(0, 0).bytes, "f.gguf"));
  for (std::uint64_t n : {std::uint64_t{1}, std::uint64_t{1} << 40, ~std::uint64_t{0}}) {
    refused(maker().start(0, n), std::to_string(n) + " keys cannot fit");
    refused(maker().start(n, 0), std::to_string(n) + " tensors cannot fit");
  }
}

BOOST_AUTO_TEST_CASE(hostile_keys) {
  const std::string pad(64, 'p');
  for (std::uint64_t n : {std::uint64_t{1000}, std::uint64_t{1} << 62, ~std::uint64_t{0}}) {
    refused(maker().start(0, 1).u64(n).raw(pad.data(), 64), "cut short");
    refused(maker().start(0, 1).key("s", gguf_type::string).u64(n).raw(pad.data(), 64), "cut short");
    for (std::uint32_t type : {0u, 1u, 2u, 3u, 4u, 5u, 6u, 7u, 8u, 9u, 10u, 11u, 12u})
      refused(maker().start(0, 1).key("a", gguf_type::array).u32(type).u64(n).raw(pad.data(), 64),
              "cannot fit");
  }
  refused(maker().start(0, 1).key("t", static_cast<gguf_type>(13)).u64(0), "key t has the unknown type 13");
  refused(maker().start(0, 1).key("t", gguf_type::array).u32(99).u64(0), "key t has the unknown type 99");
  refused(maker().start(0, 1).key("b", gguf_type::boolean).put<std::uint8_t>(2), "key b is a bool of 2");
  refused(maker().start(0, 2).key("k", gguf_type::u32).u32(1).key("k", gguf_type::u32).u32(1),
          "key k is there twice");
  maker deep;
  deep.start(0, 1).key("deep", gguf_type::array);
  for (int i = 0; i < 20; ++i) deep.u32(9).u64(1);
  deep.u32(0).u64(0);
  refused(deep, "key deep: arrays nested more than 8 deep");
  maker eight;
  eight.start(0, 1).key("deep", gguf_type::array);
  for (int i = 0; i < 7; ++i) eight.u32(9).u64(1);
  eight.u32(0).u64(0);
  BOOST_CHECK_NO_THROW(gguf_file(eight.bytes, "f.gguf"));
  refused(maker().start(0, 1).text("a\nb").u32(13).u64(0), "key a?b");
  for (std::uint32_t a : {0u, 3u, 33u, 1u << 21, 1u << 31})
    refused(maker().start(0, 1).key("general.alignment", gguf_type::u32).u32(a), "it must be a power of two");
  refused(maker().start(0, 1).key("general.alignment", gguf_type::string).text("32"), "not an integer");
}

BOOST_AUTO_TEST_CASE(hostile_tensors) {
  const auto one = [](const std::vector<std::uint64_t>& ne, std::uint32_t type, std::uint64_t offset = 0) {
    return maker().start(1, 0).tensor("t", ne, type, offset).align().noise(256);
  };
  BOOST_CHECK_NO_THROW(gguf_file(one({64}, 0).bytes, "f.gguf"));
  refused(one({65}, 0), "260 bytes at 0 do not lie in the 256 bytes");
  refused(one({64}, 0, 32), "256 bytes at 32 do not lie");
  refused(one({1}, 0, std::uint64_t{1} << 63), "do not lie");
  refused(one({1}, 0, ~std::uint64_t{0} - 31), "do not lie");
  refused(one({1}, 0, 16), "the offset 16 is not a multiple of 32");
  refused(one({1, 1, 1, 1, 1}, 0), "5 dimensions");
  refused(one({0}, 0), "dimension 0 of 0 is not possible");
  refused(one({std::uint64_t{1} << 63}, 0), "not possible");
  refused(one({std::uint64_t{1} << 32, std::uint64_t{1} << 32}, 0),
          "dimension 1 of 4294967296 is not possible");
  refused(one({std::uint64_t{1} << 62}, 0), "the shape [4611686018427387904] is not possible");
  refused(one({33}, 8), "rows of 33 are not whole blocks of 32 (Q8_0)");
  refused(one({16, 2}, 2), "rows of 16 are not whole blocks of 32 (Q4_0)");
  refused(one({}, 3), "rows of 1 are not whole blocks");
  refused(one({32}, 7), "tensor t has the unsupported type Q5_1 (F32 F16 BF16");
  refused(one({32}, 26), "tensor t has the unsupported type I32");
  refused(one({32}, 4000000000u), "tensor t has the unsupported type number 4000000000");
  refused(maker().start(2, 0).tensor("t", {8}, 0, 0).tensor("t", {8}, 0, 32).align().noise(64),
          "tensor t is there twice");
  refused(maker().start(2, 0).tensor("a", {8}, 0, 0).tensor("b", {16}, 0, 0).align().noise(64), "overlap");
  refused(maker().start(2, 0).tensor("a", {9}, 0, 0).tensor("b", {8}, 0, 32).align().noise(64),
          "tensors a and b overlap");
  maker aligned;
  aligned.start(1, 1)
      .key("general.alignment", gguf_type::u32)
      .u32(128)
      .tensor("t", {2}, 0, 128)
      .align(128)
      .noise(128);
  const float x[] = {3.0f, 4.0f};
  aligned.raw(x, sizeof x);
  const gguf_file f(aligned.bytes, "f.gguf");
  BOOST_TEST(f.alignment() == 128u);
  BOOST_TEST((f.at("t").values<float>() == std::vector<float>{3.0f, 4.0f}));
}

// ---- dequantisation, number by number from the formats' definitions
// ---------------------------------------------

namespace {

double half(const std::uint8_t* p) {
  const int h = p[0] | p[1] << 8, e = (h >> 10) & 31, m = h & 1023;
  return (h & 0x8000 ? -1 : 1) * (e ? std::ldexp(1024 + m, e - 25) : std::ldexp(m, -24));
}

/// Number i of one block, in double.
double number(dtype type, const std::uint8_t* b, int i) {
  const auto nibble = [](const std::uint8_t* q, int at, bool upper) { return upper ? q[at] >> 4 : q[at] & 15; };
  switch (type) {
    case dtype::q4_0: return (nibble(b + 2, i % 16, i >= 16) - 8) * half(b);
    case dtype::q4_1: return nibble(b + 4, i % 16, i >= 16) * half(b) + half(b + 2);
    case dtype::q5_0: {
      const int fifth = (b[2 + i / 8] >> (i % 8)) & 1;
      return (nibble(b + 6, i % 16, i >= 16) + 16 * fifth - 16) * half(b);
    }
    case dtype::q8_0: return (b[2 + i] < 128 ? b[2 + i] : b[2 + i] - 256) * half(b);
    case dtype::q4_k: {
      // 8 groups of 32; the 6-bit scales and minima: groups 0-3 whole, 4-7 in four low and two high bits
      const int g = i / 32, q = nibble(b + 16 + 32 * (g / 2), i % 32, g % 2);
      const std::uint8_t* s = b + 4;
      const int scale = g < 4 ? s[g] % 64 : s[g + 4] % 16 + 16 * (s[g - 4] / 64);
      const int minimum = g < 4 ? s[g + 4] % 64 : s[g + 4] / 16 + 16 * (s[g] / 64);
      return half(b) * scale * q - half(b + 2) * minimum;
    }
    case dtype::q6_k: {
      // halves of 128; in each, quarter k of 32 has its low four bits in ql and its high two in bits 2k of qh
      const int h = i / 128, k = i % 128 / 32, l = i % 32;
      const int low = nibble(b + 64 * h + 32 * (k % 2), l, k >= 2), high = (b[128 + 32 * h + l] >> (2 * k)) & 3;
      const int s = b[192 + i / 16];
      return half(b + 208) * (s < 128 ? s : s - 256) * (low + 16 * high - 32);
    }
    default: return 0;
  }
}

}  // namespace

BOOST_AUTO_TEST_CASE(dequantisation) {
  struct quantised {
    distil_xlstm::dtype dtype;
    std::uint32_t number;
    std::vector<std::size_t> halves;  // where the block keeps its f16
  };
  const quantised kinds[] = {{dtype::q4_0, 2, {0}}, {dtype::q4_1, 3, {0, 2}},  {dtype::q5_0, 6, {0}},
                             {dtype::q8_0, 8, {0}}, {dtype::q4_k, 12, {0, 2}}, {dtype::q6_k, 14, {208}}};
  for (const auto& q : kinds) {
    const auto [numbers, width, name] = traits(q.dtype);
    const std::size_t blocks = 50;
    maker m;
    m.start(1, 0).tensor("t", {static_cast<std::uint64_t>(numbers) * 5, 10}, q.number, 0).align();
    const std::size_t begin = m.bytes.size();
    m.noise(blocks * static_cast<std::size_t>(width), q.number);
    auto* b = reinterpret_cast<std::uint8_t*>(m.bytes.data() + begin);
    for (std::size_t i = 0; i < blocks; ++i)
      for (std::size_t h : q.halves) {
        auto& upper = b[i * static_cast<std::size_t>(width) + h + 1];
        if ((upper & 0x7c) == 0x7c) upper &= 0x83;  // finite
      }
    const gguf_file f(m.bytes, "f.gguf");
    const auto values = f.at("t").values<float>();
    BOOST_TEST(values.size() == blocks * static_cast<std::size_t>(numbers));
    for (std::size_t i = 0; i < values.size(); ++i) {
      const std::size_t block = i / static_cast<std::size_t>(numbers);
      const std::uint8_t* p = b + block * static_cast<std::size_t>(width);
      const double wanted = number(q.dtype, p, static_cast<int>(i % static_cast<std::size_t>(numbers)));
      double largest = 0;  // where d * q - m cancels, the error is relative to the parts
      for (std::size_t h : q.halves) largest = std::max(largest, std::abs(half(p + h)) * 1024);
      if (std::abs(static_cast<double>(values[i]) - wanted) > 1e-6 * std::max(std::abs(wanted), largest * 0.1))
        BOOST_ERROR(name << " number " << i << ": " << values[i] << ", not " << wanted);
    }
    // one product of small integers and a half is exact in float
    if (q.dtype == dtype::q4_0 || q.dtype == dtype::q5_0 || q.dtype == dtype::q8_0)
      for (std::size_t i = 0; i < values.size(); ++i)
        BOOST_REQUIRE(static_cast<double>(values[i]) ==
                      number(q.dtype, b + i / 32 * static_cast<std::size_t>(width), static_cast<int>(i % 32)));
  }
}

/// golden/make_gguf.py: blocks of each type, and what another implementation makes of them.
BOOST_AUTO_TEST_CASE(floats_of_the_package_gguf_bit_for_bit) {
  const auto golden = std::filesystem::path(DISTIL_XLSTM_TEST_DATA) / "golden/gguf";
  const gguf_file file(golden / "every_type.gguf");
  const safetensors_file expected(golden / "expected.safetensors");
  BOOST_TEST(file.tensors().size() == 8u);
  BOOST_TEST(expected.tensors().size() == 8u);
  for (const auto& t : file.tensors()) {
    BOOST_TEST_CONTEXT(t.name) {
      const auto& want = expected.at(t.name);
      BOOST_TEST(t.type == t.name);
      BOOST_REQUIRE((want.shape == t.shape && want.dtype == dtype::f32));
      const auto floats = t.values<float>();
      BOOST_TEST(std::memcmp(floats.data(), want.data, floats.size() * sizeof(float)) == 0);
      const auto wanted = want.values<float>();
      BOOST_TEST((t.values<double>() == std::vector<double>(wanted.begin(), wanted.end())));
    }
  }
}

BOOST_AUTO_TEST_CASE(moving_keeps_views) {
  const maker m = everything();
  std::vector<gguf_file> files;
  files.emplace_back(m.bytes, "f.gguf");
  const gguf_file f = std::move(files[0]);
  BOOST_TEST(f.get_strings("strings").at(2) == "ccc");
  BOOST_TEST(f.at("norm").values<float>().at(1) == 0.5f);
}

namespace {

/// A folder of its own for the parts of a split model.
struct parts {
  std::filesystem::path folder =
      std::filesystem::temp_directory_path() / ("gguf-parts-" + std::to_string(::getpid()));
  parts() { std::filesystem::create_directory(folder); }
  ~parts() { std::filesystem::remove_all(folder); }
  std::filesystem::path write(const std::string& name, const maker& m) const {
    std::ofstream(folder / name, std::ios::binary)
        .write(reinterpret_cast<const char*>(m.bytes.data()), static_cast<std::streamsize>(m.bytes.size()));
    return folder / name;
  }
  static maker part(std::uint16_t no, std::uint16_t count, const std::string& tensor, float value,
                    int tensors = 3) {
    maker m;
    m.start(1, 3).key("split.no", gguf_type::u16).put<std::uint16_t>(no);
    m.key("split.count", gguf_type::u16).put<std::uint16_t>(count);
    m.key("split.tensors.count", gguf_type::i32).put<std::int32_t>(tensors);
    m.tensor(tensor, {1}, 0, 0).align().put<float>(value);
    return m;
  }
};

auto mentions(std::string part) {
  return [=](const error& e) {
    BOOST_TEST_MESSAGE(e.what());
    return std::string(e.what()).find(part) != std::string::npos;
  };
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_split_model_is_read_whole) {
  const parts p;
  const auto first = p.write("m-00001-of-00003.gguf", parts::part(0, 3, "a", 1));
  const auto second = p.write("m-00002-of-00003.gguf", parts::part(1, 3, "b", 2));
  BOOST_CHECK_EXCEPTION(gguf_file{first}, error,
                        mentions("m-00001-of-00003.gguf: part 3 of 3 of the split model, "));
  const auto third = p.write("m-00003-of-00003.gguf", parts::part(2, 3, "c", 3));
  std::vector<gguf_file> moved;
  moved.emplace_back(first);
  const gguf_file f = std::move(moved[0]);
  BOOST_TEST(f.tensors().size() == 3u);
  BOOST_TEST(f.at("a").values<float>().at(0) == 1.0f);
  BOOST_TEST(f.at("b").values<float>().at(0) == 2.0f);
  BOOST_TEST(f.at("c").values<float>().at(0) == 3.0f);
  BOOST_TEST((f.files() == std::vector<std::filesystem::path>{first, second, third}));
  BOOST_CHECK_EXCEPTION(gguf_file{second}, error, mentions("is part 2 of 3 of a split model"));

  p.write("m-00003-of-00003.gguf", parts::part(1, 3, "c", 3));
  BOOST_CHECK_EXCEPTION(gguf_file{first}, error, mentions("says that it is part 2 of 3, not 3 of 3"));
  p.write("m-00003-of-00003.gguf", parts::part(2, 3, "a", 3));
  BOOST_CHECK_EXCEPTION(gguf_file{first}, error, mentions("tensor a is there twice"));
  p.write("m-00003-of-00003.gguf", everything());
  BOOST_CHECK_EXCEPTION(gguf_file{first}, error, mentions("split.no is missing"));
  const auto alone = p.write("alone.gguf", parts::part(0, 3, "a", 1));
  BOOST_CHECK_EXCEPTION(gguf_file{alone}, error, mentions("a name that ends in -00001-of-00003.gguf"));
  const auto short_of = p.write("s-00001-of-00002.gguf", parts::part(0, 2, "a", 1));
  p.write("s-00002-of-00002.gguf", parts::part(1, 2, "b", 1));
  BOOST_CHECK_EXCEPTION(gguf_file{short_of}, error,
                        mentions("the parts hold 2 tensors, split.tensors.count says 3"));
  const auto whole = p.write("whole.gguf", parts::part(0, 1, "a", 1, 1));
  BOOST_CHECK_NO_THROW(gguf_file{whole});
  refused(parts::part(0, 2, "a", 1), "one of the 2 parts of a split model");
}

BOOST_AUTO_TEST_CASE(a_git_lfs_pointer_is_named_as_such) {
  const parts p;
  maker m;
  const std::string text =
      "version https://git-lfs.github.com/spec/v1\noid sha256:" + std::string(64, '0') + "\nsize 134515008\n";
  m.raw(text.data(), text.size());
  const auto pointer = p.write("model.gguf", m);
  BOOST_CHECK_EXCEPTION(gguf_file{pointer}, error, mentions("model.gguf: is a Git LFS pointer, not the file"));
  BOOST_CHECK_EXCEPTION(safetensors_file{pointer}, error, mentions("is a Git LFS pointer, not the file"));
  BOOST_CHECK_EXCEPTION(mapped_file{pointer}, error, mentions("is a Git LFS pointer, not the file"));
}
