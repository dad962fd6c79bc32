#include <bit>
#include <boost/test/unit_test.hpp>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "../temporary_folder.hpp"
#include "distil/tensorboard.hpp"

namespace {

using distil_xlstm::temporary_folder;

std::uint64_t take_fixed(std::string_view& in, std::size_t bytes) {
  BOOST_REQUIRE(in.size() >= bytes);
  std::uint64_t x = 0;
  for (std::size_t i = 0; i < bytes; ++i) x |= std::uint64_t{static_cast<unsigned char>(in[i])} << 8 * i;
  in.remove_prefix(bytes);
  return x;
}

std::uint64_t take_varint(std::string_view& in) {
  std::uint64_t x = 0;
  for (int shift = 0;; shift += 7) {
    const auto b = take_fixed(in, 1);
    x |= (b & 0x7f) << shift;
    if (b < 0x80) return x;
  }
}

/// The fields of a message: number -> values, numbers as they are and byte strings as text.
struct message {
  std::map<std::uint64_t, std::uint64_t> numbers;
  std::map<std::uint64_t, std::vector<std::string_view>> strings;

  explicit message(std::string_view in) {
    while (!in.empty()) {
      const auto key = take_varint(in);
      switch (key & 7) {
        case 0: numbers[key >> 3] = take_varint(in); break;
        case 1: numbers[key >> 3] = take_fixed(in, 8); break;
        case 5: numbers[key >> 3] = take_fixed(in, 4); break;
        case 2: {
          const auto n = take_varint(in);
          BOOST_REQUIRE(n <= in.size());
          strings[key >> 3].push_back(in.substr(0, n));
          in.remove_prefix(n);
          break;
        }
        default: BOOST_FAIL("wire type");
      }
    }
  }
};

std::uint32_t unmasked(std::uint64_t masked) {
  return std::rotl(static_cast<std::uint32_t>(masked) - 0xa282ead8u, 15);
}

std::vector<std::string_view> frames(std::string_view in) {
  std::vector<std::string_view> found;
  while (!in.empty()) {
    const auto head = in.substr(0, 8);
    const auto n = take_fixed(in, 8);
    BOOST_TEST(unmasked(take_fixed(in, 4)) == program::crc32c(head));
    BOOST_REQUIRE(in.size() >= n + 4);
    found.push_back(in.substr(0, n));
    in.remove_prefix(n);
    BOOST_TEST(unmasked(take_fixed(in, 4)) == program::crc32c(found.back()));
  }
  return found;
}

std::string content(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

}  // namespace

BOOST_AUTO_TEST_CASE(crc32c_of_known_vectors) {  // RFC 3720, B.4
  BOOST_TEST(program::crc32c("123456789") == 0xe3069283u);
  BOOST_TEST(program::crc32c(std::string(32, '\0')) == 0x8a9136aau);
  BOOST_TEST(program::crc32c(std::string(32, '\xff')) == 0x62a8ab43u);
  std::string up, down;
  for (char i = 0; i < 32; ++i) up += i, down.insert(down.begin(), i);
  BOOST_TEST(program::crc32c(up) == 0x46dd794eu);
  BOOST_TEST(program::crc32c(down) == 0x113fdb5cu);
  BOOST_TEST(program::crc32c("") == 0u);
}

BOOST_AUTO_TEST_CASE(events_parse_back) {
  const temporary_folder f;
  program::tensorboard_writer writer(f.path);
  writer.scalars(300, {{"ce", 3.25}, {"grad_norm", 0.1}});
  writer.scalar(std::int64_t{1} << 40, "ce", -1.5);
  BOOST_TEST(writer.path().filename().string().starts_with("events.out.tfevents."));
  BOOST_TEST(writer.path().extension() == ".distil");

  const auto bytes = content(writer.path());  // flushed at every event
  const auto events = frames(bytes);
  BOOST_REQUIRE(events.size() == 3u);
  BOOST_TEST(message(events[0]).strings.at(3).at(0) == "brain.Event:2");
  BOOST_TEST(std::bit_cast<double>(message(events[0]).numbers.at(1)) > 1.7e9);

  const message first(events[1]);
  BOOST_TEST(first.numbers.at(2) == 300u);
  const message summary(first.strings.at(5).at(0));
  BOOST_REQUIRE(summary.strings.at(1).size() == 2u);
  const message ce(summary.strings.at(1)[0]), norm(summary.strings.at(1)[1]);
  BOOST_TEST(ce.strings.at(1).at(0) == "ce");
  BOOST_TEST(std::bit_cast<float>(static_cast<std::uint32_t>(ce.numbers.at(2))) == 3.25f);
  BOOST_TEST(norm.strings.at(1).at(0) == "grad_norm");
  BOOST_TEST(std::bit_cast<float>(static_cast<std::uint32_t>(norm.numbers.at(2))) == 0.1f);
  BOOST_TEST(message(events[2]).numbers.at(2) == std::uint64_t{1} << 40);
}

BOOST_AUTO_TEST_CASE(a_resume_starts_another_file) {
  const temporary_folder f;
  program::tensorboard_writer first(f.path);
  first.scalar(7, "ce", 1);
  program::tensorboard_writer second(f.path, 5);
  BOOST_TEST(first.path() != second.path());
  BOOST_TEST(first.path() < second.path());
  const auto bytes = content(second.path());
  const auto events = frames(bytes);
  BOOST_REQUIRE(events.size() == 2u);
  const message restart(events[1]);
  BOOST_TEST(restart.numbers.at(2) == 5u);
  BOOST_TEST(message(restart.strings.at(7).at(0)).numbers.at(1) == 1u);  // SessionLog.START
}

BOOST_AUTO_TEST_CASE(errors_name_the_file) {
  BOOST_CHECK_EXCEPTION(program::tensorboard_writer("/nonexistent"), distil_xlstm::error, [](const auto& e) {
    return std::string(e.what()).find("/nonexistent/events.out.tfevents.") == 0;
  });
}
