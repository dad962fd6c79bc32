#pragma once

#include <array>
#include <bit>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include <distil_xlstm/core/error.hpp>

#include "common.hpp"

namespace program {

/// CRC-32C (Castagnoli; RFC 3720, B.4): reflected polynomial 0x82f63b78, start and end inverted.
constexpr std::uint32_t crc32c(std::string_view bytes) {
  constexpr auto table = [] {
    std::array<std::uint32_t, 256> t{};
    for (std::uint32_t i = 0; i < 256; ++i) {
      std::uint32_t c = i;
      for (int bit = 0; bit < 8; ++bit) c = c >> 1 ^ (c & 1 ? 0x82f63b78u : 0u);
      t[i] = c;
    }
    return t;
  }();
  std::uint32_t c = ~0u;
  for (const char b : bytes) c = table[(c ^ static_cast<unsigned char>(b)) & 0xff] ^ c >> 8;
  return ~c;
}

namespace detail {
/// The mask that TFRecord puts on a check sum, so that a check sum of data with check sums stays a good one.
constexpr std::uint32_t masked_crc32c(std::string_view bytes) {
  return std::rotr(crc32c(bytes), 15) + 0xa282ead8u;
}

template <class U>
void put_fixed(std::string& out, U value) {
  for (std::size_t i = 0; i < sizeof value; ++i) out += static_cast<char>(value >> 8 * i & 0xff);
}

inline void put_varint(std::string& out, std::uint64_t value) {
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  out += static_cast<char>(value);
}

/// Wire types of protocol buffers.
enum class wire { varint = 0, fixed64 = 1, bytes = 2, fixed32 = 5 };

inline void put_key(std::string& out, unsigned field, wire type) {
  put_varint(out, field << 3 | static_cast<unsigned>(type));
}

inline void put_bytes(std::string& out, unsigned field, std::string_view bytes) {
  put_key(out, field, wire::bytes);
  put_varint(out, bytes.size());
  out += bytes;
}

/// TFRecord: length, its masked check sum, the bytes, their masked check sum; all little-endian.
inline std::string record_frame(std::string_view bytes) {
  std::string frame;
  put_fixed(frame, std::uint64_t{bytes.size()});
  put_fixed(frame, masked_crc32c(frame));
  frame += bytes;
  put_fixed(frame, masked_crc32c(bytes));
  return frame;
}
}  // namespace detail

/// Writes scalars as a TensorBoard event file, `events.out.tfevents.<seconds since 1970>.<host>`, one frame an
/// event, flushed each time. Messages: Event {1 wall_time, 2 step, 3 file_version | 5 summary | 7 session_log},
/// Summary {1 value {1 tag, 2 simple_value}} (tensorflow/core/util/event.proto, framework/summary.proto).
class tensorboard_writer {
 public:
  /// A new file in `folder`. After a resume, `first_step` is the first step that will be written again:
  /// TensorBoard then drops what an earlier file holds from that step on.
  explicit tensorboard_writer(const fs::path& folder, std::optional<std::int64_t> first_step = std::nullopt,
                              std::string_view host = "distil") {
    const auto stem =
        "events.out.tfevents." + std::to_string(static_cast<std::int64_t>(now())) + "." + std::string(host);
    path_ = folder / stem;
    // Two files of one second sort in the order of their making.
    for (int n = 1; fs::exists(path_); ++n) path_ = folder / (stem + "." + std::to_string(n));
    file_.open(path_, std::ios::binary);
    dx::require(file_.is_open(), path_.string(), ": cannot be written");
    std::string event = start(std::nullopt);
    detail::put_bytes(event, 3, "brain.Event:2");
    write(event);
    if (first_step) {
      event = start(*first_step);
      detail::put_bytes(event, 7, std::string_view("\x08\x01", 2));  // SessionLog {1 status: START}
      write(event);
    }
  }

  /// Writes the values of one step as one event.
  void scalars(std::int64_t step, std::span<const std::pair<std::string_view, double>> values) {
    std::string summary;
    for (const auto& [tag, value] : values) {
      std::string one;
      detail::put_bytes(one, 1, tag);
      detail::put_key(one, 2, detail::wire::fixed32);
      detail::put_fixed(one, std::bit_cast<std::uint32_t>(static_cast<float>(value)));
      detail::put_bytes(summary, 1, one);
    }
    std::string event = start(step);
    detail::put_bytes(event, 5, summary);
    write(event);
  }
  void scalars(std::int64_t step, std::initializer_list<std::pair<std::string_view, double>> values) {
    scalars(step, std::span(values.begin(), values.size()));
  }
  void scalar(std::int64_t step, std::string_view tag, double value) { scalars(step, {{tag, value}}); }

  const fs::path& path() const { return path_; }

 private:
  static double now() {
    return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  }

  static std::string start(std::optional<std::int64_t> step) {
    std::string event;
    detail::put_key(event, 1, detail::wire::fixed64);
    detail::put_fixed(event, std::bit_cast<std::uint64_t>(now()));
    if (step) {
      detail::put_key(event, 2, detail::wire::varint);
      detail::put_varint(event, static_cast<std::uint64_t>(*step));
    }
    return event;
  }

  void write(std::string_view event) {
    file_ << detail::record_frame(event) << std::flush;
    dx::require(file_.good(), path_.string(), ": cannot be written");
  }

  fs::path path_;
  std::ofstream file_;
};

}  // namespace program
