#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <distil_xlstm/core/dtype.hpp>
#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/core/extent.hpp>
#include <distil_xlstm/io/atomic_file.hpp>
#include <distil_xlstm/io/printable.hpp>
#include <distil_xlstm/io/safetensors.hpp>
#include <distil_xlstm/io/tensor_info.hpp>

namespace distil_xlstm::io {

namespace detail {

/// The element of a C++ type that the writer takes.
template <class T>
constexpr dtype dtype_of_scalar() {
  if constexpr (std::is_same_v<T, double>)
    return dtype::f64;
  else if constexpr (std::is_same_v<T, float>)
    return dtype::f32;
  else if constexpr (std::is_same_v<T, bf16>)
    return dtype::bf16;
  else if constexpr (std::is_integral_v<T> && std::is_signed_v<T> && sizeof(T) == 8)
    return dtype::i64;
  else if constexpr (std::is_same_v<T, std::int32_t>)
    return dtype::i32;
  else if constexpr (std::is_same_v<T, std::uint16_t>)
    return dtype::u16;
  else if constexpr (std::is_same_v<T, std::uint8_t>)
    return dtype::u8;
  else
    static_assert(sizeof(T) == 0, "safetensors_writer: double, float, bf16, int64, int32, uint16, uint8");
}

/// double to bf16 with one rounding: the float between is rounded to odd, so that the second rounding sees
/// that something was cut off (Boldo and Melquiond, 2008).
bf16 to_bf16(double x);
inline bf16 to_bf16(float x) { return bf16(x); }

}  // namespace detail

/// Writes a safetensors file: the same calls give the same bytes. The data begins at a multiple of 64.
///
/// In memory:  `w.add(name, kind, shape, pointer)...; w.write(path)`; the memory must last until `write`.
/// Streaming:  `w.declare(name, kind, shape)...; w.open(path); w.append(values, n)...; w.commit()`, with the
///             tensors' numbers in the order of their declaration, in as many parts as suits.
/// Floating-point memory (double, float, bf16) is converted to the kind asked for (F64, F32 or BF16, rounded to
/// nearest even); integers must have their own kind. The file appears under its name only when complete
/// (`atomic_file`). Every error is one line naming the file or the tensor.
class safetensors_writer {
 public:
  /// A string of `__metadata__`; a key given again takes the new value.
  void metadata(std::string key, std::string value) { metadata_[std::move(key)] = std::move(value); }

  /// The next tensor of the file, whose numbers `append` will give. Throws `error` where the name is taken, or the
  /// shape or type not possible.
  void declare(std::string name, dtype type, std::vector<index> shape);

  /// The next tensor of the file, whose numbers `write` will read at `values`, row-major.
  template <class T>
  void add(std::string name, dtype type, std::vector<index> shape, const T* values) {
    check_conversion<T>(name, type);
    declare(std::move(name), type, std::move(shape));
    entry& e = entries_.back();
    e.source = [values](safetensors_writer& w, index n) { w.append(values, n); };
  }

  /// Writes everything that was `add`ed.
  void write(const std::filesystem::path& path);

  /// Creates the file and writes the header.
  void open(const std::filesystem::path& path);

  /// The next n numbers of the tensor whose turn it is, none of the tensor after it.
  template <class T>
  void append(const T* values, index n) {
    require(out_ != nullptr, "safetensors_writer: append before open");
    if (n == 0) return;
    require(current_ < entries_.size(), out_->path(), ": ", n, " numbers more than were declared");
    const entry& e = entries_[current_];
    require(n > 0 && n <= e.size - done_, out_->path(), ": tensor ", detail::printable(e.name), " takes ",
            e.size - done_, " more numbers, not ", n);
    check_conversion<T>(e.name, e.dtype);
    if (e.dtype == detail::dtype_of_scalar<T>()) {
      out_->write(values, static_cast<std::size_t>(n) * sizeof(T));
    } else if constexpr (std::is_floating_point_v<T> || std::is_same_v<T, bf16>) {
      if (e.dtype == dtype::f64)
        write_as<double>(values, n);
      else if (e.dtype == dtype::f32)
        write_as<float>(values, n);
      else
        write_as<bf16>(values, n);
    }
    done_ += n;
    skip_complete();
  }

  /// Completes the file; throws when a tensor's numbers are missing. The writer is then empty again.
  void commit();

 private:
  struct entry {
    std::string name;
    distil_xlstm::dtype dtype;
    std::vector<index> shape;
    index size, bytes;
    std::function<void(safetensors_writer&, index)> source;
  };

  std::string header_text(const std::string& file) const;

  template <class T>
  static void check_conversion(const std::string& name, dtype type) {
    constexpr dtype own = detail::dtype_of_scalar<T>();
    const bool floats = (std::is_floating_point_v<T> || std::is_same_v<T, bf16>)&&(
        type == dtype::f64 || type == dtype::f32 || type == dtype::bf16);
    require(type == own || floats, "tensor ", detail::printable(name), ": cannot store ", traits(own).name,
            " as ", traits(type).name);
  }
  template <class Out, class T>
  void write_as(const T* values, index n) {
    constexpr index chunk = 4096;
    Out part[chunk];
    for (index i = 0; i < n; i += chunk) {
      const index m = std::min(chunk, n - i);
      for (index j = 0; j < m; ++j) {
        if constexpr (std::is_same_v<Out, bf16> && !std::is_same_v<T, bf16>)
          part[j] = detail::to_bf16(values[i + j]);
        else
          part[j] = static_cast<Out>(values[i + j]);
      }
      out_->write(part, static_cast<std::size_t>(m) * sizeof(Out));
    }
  }
  void skip_complete();

  std::map<std::string, std::string> metadata_;
  std::vector<entry> entries_;
  std::set<std::string> declared_;
  std::unique_ptr<atomic_file> out_;
  std::size_t current_ = 0;
  index done_ = 0;
};

}  // namespace distil_xlstm::io

#ifndef DISTIL_XLSTM_COMPILED
#include <distil_xlstm/io/safetensors_writer.ipp>
#endif
