#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <distil_xlstm/core/dtype.hpp>
#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/core/extent.hpp>
#include <distil_xlstm/core/layout.hpp>
#include <distil_xlstm/io/printable.hpp>

namespace distil_xlstm::io {

/// One tensor inside a file that some reader keeps mapped.
struct tensor_info {
  std::string name;                                      ///< as the file has it
  distil_xlstm::dtype dtype = distil_xlstm::dtype::f32;  ///< how numbers are stored, where it is readable
  std::string type;                                      ///< the type in the file's own words: "BF16", "Q4_1"
  bool readable = true;      ///< false: a type this library has no `element` for; listed only
  std::vector<index> shape;  ///< row-major, outermost first
  /// The stored numbers: valid while the file object lives, and NOT aligned to anything (formats pack tensors
  /// end to end). Read them with memcpy, or through `unpack`, `copy_to` and `values`, which do.
  const std::byte* data = nullptr;
  index bytes = 0;  ///< that they take there

  /// Numbers in all.
  index size() const;
  /// For binding by `frozen_layout`.
  stored_tensor stored() const { return {data, dtype, shape}; }

  /// Writes `size()` numbers to `out` as T: to a floating-point T from any floating-point or quantised type, to
  /// an integer T from any integer type (range checked). Throws `error` naming the tensor otherwise.
  template <class T>
  void copy_to(T* out) const {
    const index n = size();
    const bool whole = dtype == distil_xlstm::dtype::i64 || dtype == distil_xlstm::dtype::i32 ||
                       dtype == distil_xlstm::dtype::u16 || dtype == distil_xlstm::dtype::u8;
    if constexpr (std::is_floating_point_v<T>) {
      require(readable && !whole, "tensor ", detail::printable(name), " holds ", detail::printable(type),
              ", numbers with a fraction are asked for");
      unpack(dtype, data, n, out);
    } else {
      static_assert(std::is_integral_v<T>);
      require(readable && whole, "tensor ", detail::printable(name), " holds ", detail::printable(type),
              ", integers are asked for");
      switch (dtype) {
        case distil_xlstm::dtype::i64: return copy_integers<std::int64_t>(out, n);
        case distil_xlstm::dtype::i32: return copy_integers<std::int32_t>(out, n);
        case distil_xlstm::dtype::u16: return copy_integers<std::uint16_t>(out, n);
        default: return copy_integers<std::uint8_t>(out, n);
      }
    }
  }
  /// `copy_to` a new vector.
  template <class T>
  std::vector<T> values() const {
    std::vector<T> out(static_cast<std::size_t>(size()));
    copy_to(out.data());
    return out;
  }

 private:
  template <class Stored, class T>
  void copy_integers(T* out, index n) const {
    const auto* p = reinterpret_cast<const std::uint8_t*>(data);
    for (index i = 0; i < n; ++i) {
      const auto x = distil_xlstm::detail::load_bytes<Stored>(p + i * static_cast<index>(sizeof(Stored)));
      require(std::in_range<T>(x), "tensor ", detail::printable(name), ": number ", i, " is ", +x,
              ", which does not fit the integers asked for");
      out[i] = static_cast<T>(x);
    }
  }
};

namespace detail {

/// a * b, or false when that is more than an `index` holds. Both must not be negative.
inline bool multiply(index a, index b, index& product) { return !__builtin_mul_overflow(a, b, &product); }

/// "[2, 3]"
std::string shape_text(const std::vector<index>& shape);

/// The numbers below `count` in the order that `before` says: one sort for all lists.
std::vector<std::size_t> sorted_order(std::size_t count,
                                      const std::function<bool(std::size_t, std::size_t)>& before);

/// Names to places in a list of tensors.
class tensor_index {
 public:
  tensor_index() = default;
  /// Throws naming `file` when two tensors have one name.
  tensor_index(const std::vector<tensor_info>& tensors, std::string_view file);
  const tensor_info* find(const std::vector<tensor_info>& tensors, std::string_view name) const;

 private:
  std::vector<std::size_t> by_name_;
};

}  // namespace detail
}  // namespace distil_xlstm::io

#ifndef DISTIL_XLSTM_COMPILED
#include <distil_xlstm/io/tensor_info.ipp>
#endif
