#pragma once

#include <concepts>
#include <cstddef>
#include <utility>

#include <distil_xlstm/core/extent.hpp>

namespace distil_xlstm {

/// A memory space and a few verbs. Every block, term and optimiser is written against these.
///
/// Minimal definition, for a device `d`:
///   d.allocate(bytes), d.release(pointer)   memory that the device reads and writes, 64-byte aligned
///   d.upload / d.download / d.copy(destination, source, bytes)
///   d.scratch<T>(n)                         a lease of temporary memory, last in first out, free once warm
///   gemm(d, a, b, c, beta)                  c = beta c + a b; operands plain, transposed() or frozen
///   gemm_batched(d, n, a, step_a, b, step_b, c, step_c, beta)   n products of one shape
///   map(d, rows, cols, f)                   f.operator()<V>(r, c) for every element, a pack of columns at once
///   fold_rows(d, rows, cols, f)             a row's f.visit<V>(acc, r, c), merged, then f.finish(r, acc)
///   fold_columns(d, rows, cols, f)          a column's f.visit<V>(acc, r, c) in row order, f.finish<V>(c, acc)
///   scan(d, n, f)                           f(i): n independent sequential tasks
///
/// Laws (testing/check_device.hpp): each verb gives what the naive loop gives, to rounding; results do not
/// depend on the number of workers.
/// Models: device::cpu.
template <class D>
concept Device = requires(D d, void* p, const void* q, index n) {
  { d.allocate(n) } -> std::same_as<void*>;
  d.release(p);
  d.upload(p, q, n);
  d.download(p, q, n);
  d.copy(p, q, n);
  d.template scratch<float>(n);
};

/// Owned memory of a device: n numbers of T, zero at first.
template <class T, class D>
class buffer {
 public:
  buffer() = default;
  buffer(D& device, index n) : device_(&device), size_(n) {
    if (n > 0) data_ = static_cast<T*>(device.allocate(n * static_cast<index>(sizeof(T))));
  }
  buffer(buffer&& other) noexcept { swap(other); }
  buffer& operator=(buffer&& other) noexcept {
    swap(other);
    return *this;
  }
  ~buffer() {
    if (data_) device_->release(data_);
  }
  T* data() const { return data_; }
  index size() const { return size_; }
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

}  // namespace distil_xlstm
