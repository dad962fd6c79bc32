#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <distil_xlstm/core/dtype.hpp>
#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/core/extent.hpp>
#include <distil_xlstm/io/atomic_file.hpp>
#include <distil_xlstm/io/gguf.hpp>

namespace distil_xlstm::io {

/// Writes a GGUF file, version 3, little endian: the same calls give the same bytes. Keys, then `declare`, then `open`,
/// then the tensors' data in the order of their declaration, in as many parts as suits, then `commit`. The file appears
/// under its name only when complete (`atomic_file`). Every error is one line naming the file, the key or the tensor.
class gguf_writer {
 public:
  /// @{
  /// The next key and its value. Throws `error` where the key is taken.
  void u32(std::string_view key, std::uint32_t x);
  void f32(std::string_view key, float x);
  void boolean(std::string_view key, bool x);
  void string(std::string_view key, std::string_view text);
  void strings(std::string_view key, const std::vector<std::string>& texts);
  void i32s(std::string_view key, std::span<const std::int32_t> numbers);
  /// @}
  /// A value as another file has it.
  void copy(std::string_view key, const gguf_value& value);

  /// The next tensor of the file; the shape is row-major, outermost first. Throws `error` where the name is taken, or
  /// the shape or type not possible.
  void declare(std::string name, dtype type, const std::vector<index>& shape);

  /// Magic number, keys, and what the tensors are: all before their data.
  std::string header() const;
  /// Creates the file and writes the header.
  void open(const std::filesystem::path& path);
  /// The next bytes of the tensor whose turn it is, none of the tensor after it.
  void append(const void* data, index bytes);
  /// Completes the file; throws when a tensor's bytes are missing. The writer is then empty again.
  void commit();

  /// What the tensors' places in the file are multiples of.
  static constexpr index alignment = 32;

 private:
  struct entry {
    std::string name;
    distil_xlstm::dtype dtype;
    std::vector<index> shape;
    index bytes;
  };
  /// ggml's number of a type that `gguf_file` reads.
  static std::uint32_t type_number(distil_xlstm::dtype type);
  static index padded(index bytes) { return (bytes + alignment - 1) / alignment * alignment; }
  void begin(std::string_view key, gguf_type type);
  void put(const gguf_value& value);

  std::string keys_;
  std::uint64_t key_count_ = 0;
  std::set<std::string, std::less<>> taken_, declared_;
  std::vector<entry> entries_;
  std::unique_ptr<atomic_file> out_;
  std::size_t current_ = 0;
  index done_ = 0;
};

}  // namespace distil_xlstm::io

#ifndef DISTIL_XLSTM_COMPILED
#include <distil_xlstm/io/gguf_writer.ipp>
#endif
