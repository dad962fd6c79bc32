#pragma once

#include <concepts>
#include <cstddef>
#include <iterator>
#include <type_traits>
#include <utility>
#include <vector>

#include <distil_xlstm/core/extent.hpp>
#include <distil_xlstm/core/view.hpp>
#include <distil_xlstm/device/precision.hpp>

namespace distil_xlstm {

/// A memory space and a few verbs. Every block, term and optimiser is written against these.
///
/// Minimal definition, for a device `d`:
///
///     D::precision, D::scalar                 device/precision.hpp: fp64, fp32 or bf16_mixed, and its scalar
///     D::host_memory                          whether the host reads and writes the device's memory
///     d.allocate(bytes), d.release(pointer)   memory that the device reads and writes, 64-byte aligned
///     d.upload / d.download / d.copy(destination, source, bytes)
///     d.scratch<T>(n)                         a lease of temporary memory, last in first out, free once warm
///     gemm(d, a, b, c, beta)                  c = beta c + a b; operands plain, transposed() or frozen
///     gemm_batched(d, n, a, step_a, b, step_b, c, step_c, beta)   n products of one shape
///     map(d, rows, cols, f)                   f.operator()<V>(r, c) for every element, a pack of columns at once
///     fold_rows(d, rows, cols, f)             a row's f.visit<V>(acc, r, c), merged, then f.finish(r, acc)
///     fold_columns(d, rows, cols, f)          a column's f.visit<V>(acc, r, c), merged, then f.finish<V>(c, acc)
///     parallel_for(d, n, f)                   f(i) for i = 0 .. n - 1, in any order
///
/// On these are written, once for all devices: transform, transform_groups and fill (device/transform.hpp),
/// add_column_sums (device/column_sums.hpp), make_scratch and scratch_matrices (device/scratch_layout.hpp).
///
/// So are the operations of op/: op.hpp has a default for any device, and where a device is faster by a kernel of its
/// own, cpu.hpp or cuda.cuh has an overload in the device's namespace. Verbs and operations are called unqualified,
/// device first: argument-dependent lookup finds the overload, which is more specialised than the default. One that has
/// nothing for its arguments calls the default by its qualified name.
///
/// Laws (testing/check_device.hpp): each verb gives what the naive loop gives, to rounding; results do not
/// depend on the number of workers.
/// Models: device::basic_cpu<P>, device::basic_cuda<P>; device::cpu and device::cuda are those of fp32.
template <class D>
concept Device = Precision<typename D::precision> && requires(D d, void* p, const void* q, index n) {
  requires std::same_as<typename D::scalar, typename D::precision::scalar>;
  { D::host_memory } -> std::convertible_to<bool>;
  { d.allocate(n) } -> std::same_as<void*>;
  d.release(p);
  d.upload(p, q, n);
  d.download(p, q, n);
  d.copy(p, q, n);
  d.template scratch<float>(n);
};

namespace detail {
/// By a name of its own: nvcc has no mangled one for a `requires` expression.
template <class D>
inline constexpr bool rounds_operands = requires {
  requires D::rounded_operands;
};
}  // namespace detail

/// What a matrix of T is stored as where products alone read it: rounded, on a device that says `rounded_operands`: its
/// gemm, mlstm_forward and mlstm_backward take operands in its products' type, and its gemm, mlstm_forward and maps
/// write it, so that they need not be rounded again, and travel in half the bytes. D may be a reference.
template <class D, class T>
using operand_t = std::conditional_t<detail::rounds_operands<std::remove_reference_t<D>>,
                                     product_t<typename std::remove_reference_t<D>::precision, T>, T>;

namespace detail {
/// A matrix of S's in the memory of m, whose rows lie one behind another: what is stored as an `operand_t`.
template <class S, class T>
matrix_view<S> stored_as(matrix_view<T> m) {
  return {reinterpret_cast<S*>(m.data), m.rows, m.cols};
}
}  // namespace detail

/// Owned memory of a device: n numbers of T, zero at first.
template <class T, class D>
class buffer {
 public:
  buffer() = default;
  /// n numbers of `device`, which must live as long.
  buffer(D& device, index n) : device_(&device), size_(n) {
    if (n > 0) data_ = static_cast<T*>(device.allocate(n * static_cast<index>(sizeof(T))));
  }
  /// @{ The memory changes hands, and `data` stays valid.
  buffer(buffer&& other) noexcept { swap(other); }
  buffer& operator=(buffer&& other) noexcept {
    swap(other);
    return *this;
  }
  /// @}
  ~buffer() {
    if (data_) device_->release(data_);
  }
  /// The numbers, in the device's memory; null where there are none.
  T* data() const { return data_; }
  /// Numbers of T.
  index size() const { return size_; }
  /// Whether there are any.
  explicit operator bool() const { return data_ != nullptr; }

 private:
  void swap(buffer& other) {
    std::swap(device_, other.device_);
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
  }
  D* device_ = nullptr;
  T* data_ = nullptr;
  index size_ = 0;
};

/// Numbers of the host as a device reads them: where they are, or a copy in the device's memory that is made
/// anew by every `put` and grows as needed.
template <class T, class D>
class device_copy {
 public:
  /// n numbers of `host`, which may be null (then so is the result). What the last call gave is no longer
  /// valid.
  const T* put(D& device, const T* host, index n) {
    if constexpr (D::host_memory) {
      return host;
    } else {
      if (!host) return nullptr;
      if (memory_.size() < n) memory_ = buffer<T, D>(device, n);
      device.upload(memory_.data(), host, n * static_cast<index>(sizeof(T)));
      return memory_.data();
    }
  }

 private:
  buffer<T, D> memory_;
};

/// The way back: numbers of a device as the host reads them, where they are, or a copy that is made anew by
/// every `get`.
template <class T, class D>
class host_copy {
 public:
  /// n numbers of `data`. What the last call gave is no longer valid.
  const T* get(D& device, const T* data, index n) {
    if constexpr (D::host_memory) {
      return data;
    } else {
      if (std::ssize(copy_) < n) copy_.resize(static_cast<std::size_t>(n));
      device.download(copy_.data(), data, n * static_cast<index>(sizeof(T)));
      return copy_.data();
    }
  }

 private:
  std::vector<T> copy_;
};

}  // namespace distil_xlstm
