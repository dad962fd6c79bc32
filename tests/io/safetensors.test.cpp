#include <unistd.h>

#include <boost/test/unit_test.hpp>
#include <cstring>
#include <filesystem>
#include <limits>
#include <string>
#include <vector>

#include <distil_xlstm/io/mapped_file.hpp>
#include <distil_xlstm/io/safetensors.hpp>
#include <distil_xlstm/io/safetensors_writer.hpp>

using namespace distil_xlstm;
using namespace distil_xlstm::io;
namespace fs = std::filesystem;

namespace {

fs::path temporary(const std::string& name) {
  return fs::temp_directory_path() / ("distil_xlstm_safetensors_" + std::to_string(::getpid()) + "_" + name);
}

std::vector<std::byte> bytes_of(const std::string& text) {
  std::vector<std::byte> out(text.size());
  std::memcpy(out.data(), text.data(), text.size());
  return out;
}

std::vector<std::byte> image(const std::string& header, std::size_t data_bytes) {
  std::string text(8, '\0');
  const std::uint64_t n = header.size();
  std::memcpy(text.data(), &n, 8);
  text += header;
  for (std::size_t i = 0; i < data_bytes; ++i) text += static_cast<char>(i);
  return bytes_of(text);
}

auto says(std::string part) {
  return [=](const error& e) {
    const std::string what = e.what();
    BOOST_TEST_MESSAGE(what);
    return what.find(part) != what.npos && what.starts_with("f.st: ") && what.find('\n') == what.npos;
  };
}

void refused(const std::string& header, std::size_t data_bytes, const std::string& part) {
  const auto file = image(header, data_bytes);
  BOOST_TEST_CONTEXT(header) { BOOST_CHECK_EXCEPTION(safetensors_file(file, "f.st"), error, says(part)); }
}

}  // namespace

BOOST_AUTO_TEST_CASE(round_trip_of_every_type) {
  const auto path = temporary("round.safetensors");
  const std::vector<double> d = {1.0, -0.0, std::numeric_limits<double>::infinity(), 1e300, 5e-324, 0.1};
  const std::vector<float> f = {1.0f, -2.5f, 3.0e38f};
  const std::vector<bf16> b = {bf16(1.0f), bf16(-3.0f)};
  const std::vector<std::int64_t> l = {std::numeric_limits<std::int64_t>::min(), 7};
  const std::vector<std::int32_t> i = {-1, 1 << 30};
  const std::vector<std::uint16_t> h = {0, 65535, 3};
  const std::vector<std::uint8_t> u = {0, 255, 9};
  const auto write = [&](const fs::path& to) {
    safetensors_writer w;
    w.metadata("note", "a \"quoted\" \n thing");
    w.metadata("format", "pt");
    w.add("bytes", dtype::u8, {3}, u.data());
    w.add("d", dtype::f64, {2, 3}, d.data());
    w.add("f.weight", dtype::f32, {3, 1, 1}, f.data());
    w.add("b", dtype::bf16, {2}, b.data());
    w.add("empty", dtype::f32, {0, 5}, f.data());
    w.add("l", dtype::i64, {2}, l.data());
    w.add("i", dtype::i32, {2}, i.data());
    w.add("h", dtype::u16, {3}, h.data());
    w.add("scalar", dtype::f32, {}, f.data());
    w.write(to);
  };
  write(path);
  const safetensors_file file(path);
  BOOST_TEST((file.names() ==
              std::vector<std::string>{"bytes", "d", "f.weight", "b", "empty", "l", "i", "h", "scalar"}));
  BOOST_TEST(file.metadata().at("note") == "a \"quoted\" \n thing");
  BOOST_TEST(file.metadata().size() == 2u);
  const auto same = [&](const char* name, const auto& values, dtype type,
                        const std::vector<distil_xlstm::index>& shape) {
    const tensor_info& t = file.at(name);
    BOOST_TEST(t.bytes == static_cast<distil_xlstm::index>(values.size() * sizeof(values[0])));
    BOOST_TEST(std::memcmp(t.data, values.data(), static_cast<std::size_t>(t.bytes)) == 0);
    BOOST_TEST((t.dtype == type && t.shape == shape));
  };
  same("bytes", u, dtype::u8, {3});
  same("d", d, dtype::f64, {2, 3});
  same("f.weight", f, dtype::f32, {3, 1, 1});
  same("b", b, dtype::bf16, {2});
  same("l", l, dtype::i64, {2});
  same("i", i, dtype::i32, {2});
  same("h", h, dtype::u16, {3});
  BOOST_TEST(file.at("scalar").values<double>().at(0) == 1.0);
  BOOST_TEST(file.at("empty").size() == 0);
  BOOST_TEST((file.at("d").values<double>() == d));  // unaligned: it begins at byte 3 of the data
  BOOST_TEST((file.at("h").values<int>() == std::vector<int>{0, 65535, 3}));
  BOOST_CHECK_THROW(file.at("l").values<std::int32_t>(), error);
  BOOST_CHECK_THROW(file.at("l").values<float>(), error);
  BOOST_CHECK_THROW(file.at("d").values<int>(), error);
  BOOST_TEST(file.find("none") == nullptr);
  BOOST_CHECK_EXCEPTION(file.at("none"), error, [&](const error& e) {
    return std::string(e.what()).find(path.string() + ": there is no tensor none") == 0;
  });

  const mapped_file raw(path);
  std::uint64_t header = 0;
  std::memcpy(&header, raw.bytes().data(), 8);
  BOOST_TEST((header + 8) % 64 == 0u);
  const auto again = temporary("again.safetensors");
  write(again);
  const mapped_file second(again);
  BOOST_TEST(std::equal(raw.bytes().begin(), raw.bytes().end(), second.bytes().begin(), second.bytes().end()));
  fs::remove(path);
  fs::remove(again);
}

BOOST_AUTO_TEST_CASE(conversion) {
  const auto path = temporary("convert.safetensors");
  // between 1 and the next bf16 (1 + 2^-7): the tie goes to even, a hair above the tie goes up
  const std::vector<double> d = {1.0 + 0x1p-8,
                                 1.0 + 0x1p-8 + 0x1p-40,
                                 -(1.0 + 0x1p-8 + 0x1p-40),
                                 1.0 + 0x1.8p-7 - 0x1p-40,
                                 0.0,
                                 1e-320,
                                 std::numeric_limits<double>::quiet_NaN(),
                                 1e300};
  const std::vector<float> f = {1.0f + 0x1p-8f, 1.0f + 0x1.8p-7f};
  const std::vector<bf16> b = {bf16(1.5f)};
  safetensors_writer w;
  w.add("d", dtype::bf16, {8}, d.data());
  w.add("f", dtype::bf16, {2}, f.data());
  w.add("fd", dtype::f64, {2}, f.data());
  w.add("bf", dtype::f32, {1}, b.data());
  w.add("df", dtype::f32, {1}, d.data());
  BOOST_CHECK_THROW(w.add("x", dtype::i32, {1}, d.data()), error);
  BOOST_CHECK_THROW(w.add("x", dtype::f16, {1}, d.data()), error);
  const std::int32_t one = 1;
  BOOST_CHECK_THROW(w.add("x", dtype::f32, {1}, &one), error);
  w.write(path);
  const safetensors_file file(path);
  const auto x = file.at("d").values<double>();
  BOOST_TEST(x[0] == 1.0);
  BOOST_TEST(x[1] == 1.0 + 0x1p-7);
  BOOST_TEST(x[2] == -(1.0 + 0x1p-7));
  BOOST_TEST(x[3] == 1.0 + 0x1p-7);
  BOOST_TEST(x[4] == 0.0);
  BOOST_TEST(x[5] == 0.0);
  BOOST_TEST(std::isnan(x[6]));
  BOOST_TEST(std::isinf(x[7]));
  BOOST_TEST((file.at("f").values<float>() == std::vector<float>{1.0f, 1.0f + 0x1p-6f}));
  BOOST_TEST((file.at("fd").values<float>() == f));
  BOOST_TEST(file.at("bf").values<float>()[0] == 1.5f);
  BOOST_TEST(file.at("df").values<float>()[0] == 1.0f + 0x1p-8f);
  fs::remove(path);
}

BOOST_AUTO_TEST_CASE(calls_out_of_order) {
  const std::vector<float> values(10);
  safetensors_writer w;
  w.declare("a", dtype::f32, {100, 100});
  w.declare("nothing", dtype::u8, {0});
  w.declare("b", dtype::bf16, {10000});
  BOOST_CHECK_THROW(w.declare("a", dtype::f32, {1}), error);
  BOOST_CHECK_THROW(w.declare("q", dtype::q4_0, {32}), error);
  BOOST_CHECK_THROW(w.declare("__metadata__", dtype::f32, {1}), error);
  BOOST_CHECK_THROW(w.declare("n", dtype::f32, {-1}), error);
  BOOST_CHECK_THROW(w.declare("o", dtype::f32, {distil_xlstm::index{1} << 40, distil_xlstm::index{1} << 40}),
                    error);
  BOOST_CHECK_THROW(w.append(values.data(), 1), error);
  BOOST_CHECK_THROW(w.commit(), error);
}

BOOST_AUTO_TEST_CASE(streaming_in_parts) {
  const auto path = temporary("parts.safetensors");
  std::vector<float> values(10000);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 256);
  safetensors_writer w;
  w.declare("a", dtype::f32, {100, 100});
  w.declare("nothing", dtype::u8, {0});
  w.declare("b", dtype::bf16, {10000});
  w.open(path);
  BOOST_CHECK_THROW(w.open(path), error);
  BOOST_CHECK_THROW(w.declare("late", dtype::f32, {1}), error);
  for (distil_xlstm::index i = 0; i < 10000; i += 1000) w.append(values.data() + i, 1000);
  BOOST_CHECK_THROW(w.commit(), error);
  BOOST_CHECK_THROW(w.append(values.data(), 10001), error);
  const std::int32_t integer = 0;
  BOOST_CHECK_THROW(w.append(&integer, 1), error);
  w.append(values.data(), 10000);
  BOOST_CHECK_THROW(w.append(values.data(), 1), error);
  BOOST_TEST(!fs::exists(path));
  w.commit();
  const safetensors_file file(path);
  BOOST_TEST((file.at("a").values<float>() == values));
  BOOST_TEST((file.at("b").values<float>() == values));
  const safetensors_file moved = [&] {
    safetensors_file inner(path);
    return inner;
  }();
  BOOST_TEST(moved.at("b").size() == 10000);
  fs::remove(path);
}

BOOST_AUTO_TEST_CASE(nothing_at_all) {
  const auto path = temporary("nothing.safetensors");
  safetensors_writer().write(path);
  BOOST_TEST(safetensors_file(path).tensors().empty());
  safetensors_writer w;
  w.metadata("k", "v");
  w.write(path);
  BOOST_TEST(safetensors_file(path).metadata().at("k") == "v");
  fs::remove(path);
}

BOOST_AUTO_TEST_CASE(hostile_headers) {
  const std::string a = R"("a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]})";
  refused("", 0, "does not begin with {");
  refused("[]", 0, "does not begin with {");
  refused("{", 0, "not valid JSON");
  refused("{}x", 0, "not valid JSON");
  refused("{}", 1, "the tensors end at byte 0");
  refused("{" + a + "}", 9, "the tensors end at byte 8");
  refused("{" + a + "}", 7, "do not lie in the 7 bytes");
  refused("{" + a + "," + a + "}", 8, "\"a\" is given twice");
  refused("{" + a + R"(,"b":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}})", 8, "begins at 0");
  refused("{" + a + R"(,"b":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})", 8, "begins at 4");
  refused("{" + a + R"(,"b":{"dtype":"U8","shape":[1],"data_offsets":[9,10]}})", 10, "begins at 9");
  refused(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})", 8, "do not lie");
  refused(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0]}})", 8, "two numbers");
  refused(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8.0]}})", 8, "data_offsets must be an integer");
  refused(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[-1,8]}})", 8, "non-negative");
  refused(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,99999999999999999999]}})", 8, "integer");
  refused(R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})", 8, "does not take the 8 bytes");
  refused(R"({"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})", 8, "not possible");
  refused(R"({"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,8]}})", 8, "not possible");
  refused(R"({"a":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,8]}})", 8, "does not take");
  refused(R"({"a":{"dtype":"F32","shape":2,"data_offsets":[0,8]}})", 8, "shape must be an array");
  refused(R"({"a":{"dtype":"F32","data_offsets":[0,8]}})", 8, "shape is missing");
  refused(R"({"a":{"shape":[2],"data_offsets":[0,8]}})", 8, "dtype is missing");
  refused(R"({"a":{"dtype":4,"shape":[2],"data_offsets":[0,8]}})", 8, "dtype must be a string");
  refused(R"({"a":[1,2]})", 0, "a JSON object");
  refused(R"({"a\nb":{"dtype":"F32"}})", 0, "tensor a?b: shape is missing");
  refused(R"({"__metadata__":{"a":1}})", 0, "a must be a string");
  refused(R"({"__metadata__":[]})", 0, "an object of strings");
  refused("{\"a\":" + std::string(100000, '['), 0, "nested more than");
  auto file = image("{}", 0);
  for (std::uint64_t n :
       {std::uint64_t{3}, std::uint64_t{100000001}, ~std::uint64_t{0}, ~std::uint64_t{0} - 7}) {
    std::memcpy(file.data(), &n, 8);
    BOOST_CHECK_EXCEPTION(safetensors_file(file, "f.st"), error, says("a header of " + std::to_string(n)));
  }
}

BOOST_AUTO_TEST_CASE(unsupported_types_are_listed_and_refused_when_asked_for) {
  const auto file =
      image(R"({"w":{"dtype":"F8_E4M3","shape":[3],"data_offsets":[0,3]},"u":{"dtype":"U8","shape":[1],)"
            R"("data_offsets":[3,4]}}   )",
            4);
  const safetensors_file st(file, "f.st");
  BOOST_TEST((st.names() == std::vector<std::string>{"w", "u"}));
  BOOST_TEST(!st.tensors()[0].readable);
  BOOST_TEST(st.at("u").values<int>()[0] == 3);
  BOOST_CHECK_EXCEPTION(st.at("w"), error, says("tensor w has the unsupported type F8_E4M3"));
  BOOST_CHECK_EXCEPTION(st.find("w"), error, says("F8_E4M3"));
}

BOOST_AUTO_TEST_CASE(truncation_at_every_length) {
  const auto whole =
      image(R"({"__metadata__":{"k":"v"},"b":{"dtype":"BF16","shape":[2,2],"data_offsets":[0,8]},)"
            R"("a":{"dtype":"F64","shape":[1],"data_offsets":[8,16]}})",
            16);
  BOOST_CHECK_NO_THROW(safetensors_file(whole, "f.st"));
  for (std::size_t n = 0; n < whole.size(); ++n) {
    const std::vector<std::byte> cut(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(n));
    BOOST_TEST_CONTEXT(n) { BOOST_CHECK_THROW(safetensors_file(cut, "f.st"), error); }
  }
}
