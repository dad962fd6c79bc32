#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <iterator>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <distil_xlstm/core/dtype.hpp>
#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/core/extent.hpp>
#include <distil_xlstm/io/json_scanner.hpp>
#include <distil_xlstm/io/mapped_file.hpp>
#include <distil_xlstm/io/printable.hpp>
#include <distil_xlstm/io/tensor_info.hpp>

namespace distil_xlstm::io {

/// A safetensors file, memory-mapped: u64 length of a JSON header, the header, then the tensors end to end.
/// The header must describe the file exactly: no overlap, no hole, no byte left over, no name twice.
/// Types: F64 F32 BF16 F16 I64 I32 U16 U8; a tensor of another type is listed and refused once it is asked for.
class safetensors_file {
 public:
  static constexpr std::uint64_t longest_header = 100'000'000;  ///< bytes, as the format has it

  /// Throws `error` naming the file (and tensor) when the file cannot be read or is malformed.
  explicit safetensors_file(const std::filesystem::path& path);
  /// Over memory that the caller keeps; `name` is what errors call it.
  safetensors_file(std::span<const std::byte> bytes, std::string name);

  /// What errors call the file.
  const std::string& path() const { return name_; }
  /// `__metadata__` of the header.
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  /// All tensors in the order of their data in the file.
  const std::vector<tensor_info>& tensors() const { return tensors_; }
  /// Of all tensors, in that order.
  std::vector<std::string> names() const;
  /// The tensor, or null where there is none; throws where its type is not supported.
  const tensor_info* find(std::string_view name) const;
  /// As `find`; throws naming the file and the tensor where there is none.
  const tensor_info& at(std::string_view name) const;

 private:
  void parse(std::span<const std::byte> file);

  void read_header(std::string_view text, std::span<const std::byte> data);

  tensor_info read_tensor(detail::json_scanner& in, const std::string& name, std::span<const std::byte> data);

  static bool dtype_named(std::string_view type, dtype& out);

  mapped_file file_;
  std::string name_;
  std::map<std::string, std::string> metadata_;
  std::vector<tensor_info> tensors_;
  detail::tensor_index index_;
};

}  // namespace distil_xlstm::io

#ifndef DISTIL_XLSTM_COMPILED
#include <distil_xlstm/io/safetensors.ipp>
#endif
