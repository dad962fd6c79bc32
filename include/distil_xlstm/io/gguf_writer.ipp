#pragma once

#include <algorithm>
#include <bit>
#include <iterator>
#include <limits>
#include <type_traits>
#include <utility>

#include <distil_xlstm/core/config.hpp>
#include <distil_xlstm/io/gguf_writer.hpp>
#include <distil_xlstm/io/printable.hpp>

namespace distil_xlstm::io {

namespace detail {

template <class X>
void put_bytes(std::string& out, X x) {
  static_assert(std::is_trivially_copyable_v<X>);
  out.append(reinterpret_cast<const char*>(&x), sizeof x);
}
inline void put_text(std::string& out, std::string_view text) {
  put_bytes(out, static_cast<std::uint64_t>(text.size()));
  out += text;
}
}  // namespace detail

DISTIL_XLSTM_INLINE std::uint32_t gguf_writer::type_number(dtype type) {
  std::uint32_t n = 0;
  while (gguf_file::ggml_type_name(n) != traits(type).name) ++n;
  return n;
}

DISTIL_XLSTM_INLINE void gguf_writer::begin(std::string_view key, gguf_type type) {
  require(!out_, "key ", detail::printable(key), " is given after the file was opened");
  require(taken_.emplace(key).second, "key ", detail::printable(key), " is given twice");
  detail::put_text(keys_, key);
  detail::put_bytes(keys_, type);
  ++key_count_;
}

DISTIL_XLSTM_INLINE void gguf_writer::u32(std::string_view key, std::uint32_t x) {
  begin(key, gguf_type::u32);
  detail::put_bytes(keys_, x);
}
DISTIL_XLSTM_INLINE void gguf_writer::f32(std::string_view key, float x) {
  begin(key, gguf_type::f32);
  detail::put_bytes(keys_, x);
}
DISTIL_XLSTM_INLINE void gguf_writer::boolean(std::string_view key, bool x) {
  begin(key, gguf_type::boolean);
  detail::put_bytes(keys_, static_cast<std::uint8_t>(x));
}
DISTIL_XLSTM_INLINE void gguf_writer::string(std::string_view key, std::string_view text) {
  begin(key, gguf_type::string);
  detail::put_text(keys_, text);
}
DISTIL_XLSTM_INLINE void gguf_writer::strings(std::string_view key, const std::vector<std::string>& texts) {
  begin(key, gguf_type::array);
  detail::put_bytes(keys_, gguf_type::string);
  detail::put_bytes(keys_, static_cast<std::uint64_t>(texts.size()));
  for (const auto& text : texts) detail::put_text(keys_, text);
}
DISTIL_XLSTM_INLINE void gguf_writer::i32s(std::string_view key, std::span<const std::int32_t> numbers) {
  begin(key, gguf_type::array);
  detail::put_bytes(keys_, gguf_type::i32);
  detail::put_bytes(keys_, static_cast<std::uint64_t>(numbers.size()));
  for (const auto n : numbers) detail::put_bytes(keys_, n);
}
DISTIL_XLSTM_INLINE void gguf_writer::copy(std::string_view key, const gguf_value& value) {
  begin(key, value.type);
  put(value);
}

DISTIL_XLSTM_INLINE void gguf_writer::put(const gguf_value& v) {
  using detail::put_bytes;
  switch (v.type) {
    case gguf_type::u8:
    case gguf_type::i8:
    case gguf_type::boolean: return put_bytes(keys_, static_cast<std::uint8_t>(v.bits));
    case gguf_type::u16:
    case gguf_type::i16: return put_bytes(keys_, static_cast<std::uint16_t>(v.bits));
    case gguf_type::u32:
    case gguf_type::i32: return put_bytes(keys_, static_cast<std::uint32_t>(v.bits));
    case gguf_type::f32: return put_bytes(keys_, static_cast<float>(std::bit_cast<double>(v.bits)));
    case gguf_type::u64:
    case gguf_type::i64:
    case gguf_type::f64: return put_bytes(keys_, v.bits);
    case gguf_type::string: return detail::put_text(keys_, v.text);
    case gguf_type::array: break;
  }
  put_bytes(keys_, v.of);
  put_bytes(keys_, v.count);
  for (const auto text : v.strings) detail::put_text(keys_, text);
  for (const auto& each : v.nested) put(each);
  const auto width = gguf_file::size_of(v.of);
  if (width > 0) keys_.append(reinterpret_cast<const char*>(v.packed), v.count * width);
}

DISTIL_XLSTM_INLINE void gguf_writer::declare(std::string name, dtype type, const std::vector<index>& shape) {
  const std::string where = "tensor " + detail::printable(name);
  require(!out_, where, " is declared after the file was opened");
  require(declared_.insert(name).second, where, " is declared twice");
  require(std::count(std::begin(gguf_file::readable), std::end(gguf_file::readable), type) > 0, where, ": ",
          traits(type).name, " is not supported in GGUF (", gguf_file::readable_names(), " are)");
  require(!shape.empty() && shape.size() <= 4, where, " has ", shape.size(), " dimensions, GGUF has 1 to 4");
  index size = 1, bytes = 0;
  for (const index n : shape)
    require(n > 0 && detail::multiply(size, n, size), where, ": the shape ", detail::shape_text(shape),
            " is not possible");
  const auto [numbers, each, type_name] = traits(type);
  require(shape.back() % numbers == 0, where, ": rows of ", shape.back(), " are not whole blocks of ", numbers,
          " (", type_name, ")");
  require(
      detail::multiply(size / numbers, each, bytes) && bytes <= std::numeric_limits<index>::max() - alignment,
      where, ": the shape ", detail::shape_text(shape), " is not possible");
  entries_.push_back({std::move(name), type, shape, bytes});
}

DISTIL_XLSTM_INLINE std::string gguf_writer::header() const {
  std::string out = "GGUF";
  detail::put_bytes(out, std::uint32_t{3});
  detail::put_bytes(out, static_cast<std::uint64_t>(entries_.size()));
  detail::put_bytes(out, key_count_);
  out += keys_;
  index at = 0;
  for (const entry& e : entries_) {
    detail::put_text(out, e.name);
    detail::put_bytes(out, static_cast<std::uint32_t>(e.shape.size()));
    for (auto n = e.shape.rbegin(); n != e.shape.rend(); ++n)
      detail::put_bytes(out, static_cast<std::uint64_t>(*n));
    detail::put_bytes(out, type_number(e.dtype));
    detail::put_bytes(out, static_cast<std::uint64_t>(at));
    require(!__builtin_add_overflow(at, padded(e.bytes), &at), "the tensors are too large together");
  }
  out.resize(static_cast<std::size_t>(padded(std::ssize(out))));
  return out;
}

DISTIL_XLSTM_INLINE void gguf_writer::open(const std::filesystem::path& path) {
  require(!out_, path.string(), ": the writer is already open");
  const std::string first = header();
  out_ = std::make_unique<atomic_file>(path);
  out_->write(first);
}

DISTIL_XLSTM_INLINE void gguf_writer::append(const void* data, index bytes) {
  require(out_ != nullptr, "gguf_writer: append before open");
  require(current_ < entries_.size(), out_->path(), ": ", bytes, " bytes more than were declared");
  const entry& e = entries_[current_];
  require(bytes >= 0 && bytes <= e.bytes - done_, out_->path(), ": tensor ", detail::printable(e.name),
          " takes ", e.bytes - done_, " more bytes, not ", bytes);
  out_->write(data, static_cast<std::size_t>(bytes));
  done_ += bytes;
  if (done_ < e.bytes) return;
  constexpr char zeros[alignment] = {};
  out_->write(zeros, static_cast<std::size_t>(padded(e.bytes) - e.bytes));
  ++current_, done_ = 0;
}

DISTIL_XLSTM_INLINE void gguf_writer::commit() {
  require(out_ != nullptr, "gguf_writer: commit before open");
  if (current_ < entries_.size())
    fail(out_->path(), ": tensor ", detail::printable(entries_[current_].name), " lacks ",
         entries_[current_].bytes - done_, " bytes");
  out_->commit();
  *this = gguf_writer();
}

}  // namespace distil_xlstm::io
