#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <iterator>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <distil_xlstm/core/dtype.hpp>
#include <distil_xlstm/io/mapped_file.hpp>
#include <distil_xlstm/io/tensor_info.hpp>

namespace distil_xlstm::io {

/// The types of GGUF's key-value section, with the file's numbers.
enum class gguf_type : std::uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, string, array, u64, i64, f64 };

/// One value of the key-value section.
struct gguf_value {
  gguf_type type = gguf_type::u8;  ///< which of the fields below hold it
  std::uint64_t bits = 0;          ///< integers (sign extended), bool; floats as the bits of a double
  std::string_view text;           ///< strings: into the mapping

  /// @{
  /// Arrays: `count` elements of type `of`. Of a fixed size, they lie packed (and unaligned) at `packed`;
  /// strings are views in `strings`; arrays within arrays are in `nested`.
  gguf_type of = gguf_type::u8;
  std::uint64_t count = 0;
  const std::byte* packed = nullptr;
  std::vector<std::string_view> strings;
  std::vector<gguf_value> nested;
  /// @}
};

/// A GGUF file (version 2 or 3, little endian), memory-mapped: keys with values, and tensors. A model that was
/// split (`split.count`) is opened by its first file, NAME-00001-of-0000N.gguf, and read whole from all of them.
/// Everything is checked against the file's size before it is believed; a malformed or cut file, or a tensor of
/// a type that `unpack` does not know, is an `error` naming the file and the key or tensor. Source: the GGUF
/// specification of ggml (docs/gguf.md).
class gguf_file {
 public:
  /// Maps the file, and reads its keys and what its tensors are.
  explicit gguf_file(const std::filesystem::path& path);
  /// Over memory that the caller keeps; `name` is what errors call it.
  gguf_file(std::span<const std::byte> bytes, std::string name);

  /// What errors call the file.
  const std::string& path() const { return name_; }
  /// The files that hold the model: this one, and the other parts of a split one.
  std::vector<std::filesystem::path> files() const;
  /// Of the format: 2 or 3.
  std::uint32_t version() const { return version_; }
  /// What the tensors' places in the file are multiples of, in bytes: the key general.alignment, or 32.
  std::uint64_t alignment() const { return alignment_; }

  /// Keys in the order of the file.
  const std::vector<std::pair<std::string_view, gguf_value>>& keys() const { return keys_; }
  /// The value, or null where there is no such key.
  const gguf_value* find_key(std::string_view key) const;

  /// @{
  /// A value by type; throws naming file and key when it is missing or cannot be had as that type. Integers of
  /// any width do as u64 or i64 where they fit; integers and floats do as f64.
  std::uint64_t get_u64(std::string_view key) const { return integer<std::uint64_t>(key, required(key)); }
  std::int64_t get_i64(std::string_view key) const { return integer<std::int64_t>(key, required(key)); }
  double get_f64(std::string_view key) const { return number(key, required(key)); }
  bool get_bool(std::string_view key) const { return boolean(key, required(key)); }
  std::string_view get_string(std::string_view key) const { return string(key, required(key)); }
  /// @}

  /// @{
  /// The same with a value for when the key is absent; a wrong type still throws.
  std::uint64_t get_u64_or(std::string_view key, std::uint64_t otherwise) const;
  std::int64_t get_i64_or(std::string_view key, std::int64_t otherwise) const;
  double get_f64_or(std::string_view key, double otherwise) const;
  bool get_bool_or(std::string_view key, bool otherwise) const;
  std::string_view get_string_or(std::string_view key, std::string_view otherwise) const;
  /// @}

  /// @{
  /// Arrays; throws as `get_u64` does. The strings are views into the mapping; integers of any width do as i32 where
  /// they fit.
  const std::vector<std::string_view>& get_strings(std::string_view key) const;
  std::vector<std::int32_t> get_i32s(std::string_view key) const;
  std::vector<float> get_f32s(std::string_view key) const;
  /// @}

  /// Tensors in the order of the file. Shapes are row-major, outermost first: ggml's `ne` reversed.
  const std::vector<tensor_info>& tensors() const { return tensors_; }
  /// The tensor, or null.
  const tensor_info* find(std::string_view name) const { return index_.find(tensors_, name); }
  /// The tensor; throws naming the file and the tensor where there is none.
  const tensor_info& at(std::string_view name) const;

 private:
  static constexpr int deepest = 8;
  static constexpr std::uint64_t largest_alignment = 1u << 20;

  // ---- reading, bounds checked ------------------------------------------------------------------------------
  std::size_t left() const { return bytes_.size() - at_; }
  const std::byte* take(std::uint64_t n);
  template <class T>
  static T load(const std::byte* p) {
    T x;
    std::memcpy(&x, p, sizeof x);
    return x;
  }
  template <class T>
  T read() {
    return load<T>(take(sizeof(T)));
  }
  std::string_view read_string();
  gguf_type read_type(std::string_view key);
  /// A count read from the file, refused when that many things of at least `each` bytes cannot follow.
  std::uint64_t read_count(std::uint64_t each, std::string_view what);
  void check_count(std::uint64_t n, std::uint64_t each, std::string_view what) const;

  /// What to reserve for a count that is only claimed: the objects are larger than their bytes in the file.
  static std::size_t cautious(std::uint64_t count);

  static bool is_integer(gguf_type t);
  /// Bytes of a value of fixed size; 0 for strings and arrays.
  static std::size_t size_of(gguf_type t);
  static const char* type_name(gguf_type t);
  static std::string described(const gguf_value& v);
  static std::uint64_t load_bits(gguf_type t, const std::byte* p);

  // ---- split models -----------------------------------------------------------------------------------------
  struct one_part {};
  gguf_file(const std::filesystem::path& path, one_part);

  /// "-00002-of-00003.gguf", as llama.cpp's gguf-split names them.
  static std::string part_suffix(std::uint64_t part, std::uint64_t count);

  /// Takes the tensors of the other parts.
  void read_parts(const std::filesystem::path& path, std::uint64_t count);

  // ---- the parts of the file --------------------------------------------------------------------------------
  void parse(std::span<const std::byte> file);

  gguf_value read_value(std::string_view key, gguf_type type, int depth);

  /// ggml's name of a tensor's type, or its number where ggml has none.
  static std::string ggml_type_name(std::uint32_t type);
  static constexpr dtype readable[] = {dtype::f32,  dtype::f16,  dtype::bf16, dtype::f64,  dtype::q8_0,
                                       dtype::q4_0, dtype::q4_1, dtype::q5_0, dtype::q4_k, dtype::q6_k};
  static std::string readable_names();

  tensor_info read_tensor(std::vector<std::uint64_t>& offsets);

  void place_tensors(const std::vector<std::uint64_t>& offsets);

  // ---- typed access -----------------------------------------------------------------------------------------
  const gguf_value& required(std::string_view key) const;
  [[noreturn]] void refuse(std::string_view key, const gguf_value& v, const char* wanted) const;
  template <class T>
  T integer(std::string_view key, const gguf_value& v) const {
    if (!is_integer(v.type)) refuse(key, v, "an integer");
    const bool fits = v.type == gguf_type::u64 ? std::in_range<T>(v.bits)
                                               : std::in_range<T>(static_cast<std::int64_t>(v.bits));
    require(fits, name_, ": key ", detail::printable(key), " is out of range");
    return static_cast<T>(v.bits);
  }
  double number(std::string_view key, const gguf_value& v) const;
  bool boolean(std::string_view key, const gguf_value& v) const;
  std::string_view string(std::string_view key, const gguf_value& v) const;
  const gguf_value& array(std::string_view key, gguf_type of, const char* wanted) const;

  mapped_file file_;
  std::string name_;
  std::span<const std::byte> bytes_;
  std::size_t at_ = 0;
  std::uint32_t version_ = 0;
  std::uint64_t alignment_ = 32;
  std::vector<std::pair<std::string_view, gguf_value>> keys_;
  std::vector<std::size_t> keys_by_name_;
  std::vector<tensor_info> tensors_;
  detail::tensor_index index_;
  std::vector<gguf_file> parts_;  // those after the first

  /// Knows the format's types by the same tables.
  friend class gguf_writer;
};

}  // namespace distil_xlstm::io

#ifndef DISTIL_XLSTM_COMPILED
#include <distil_xlstm/io/gguf.ipp>
#endif
