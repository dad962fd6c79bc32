#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <memory>
#include <new>

#include <distil_xlstm/core/dtype.hpp>
#include <distil_xlstm/core/extent.hpp>

namespace distil_xlstm::device::detail {

/// A matrix operand as it lies in memory: element (r, c) is number r * ld + c of `data`, or c * ld + r if
/// `transposed`. A quantised kind needs ld to be a multiple of its block.
struct gemm_operand {
  const void* data;
  index ld;
  distil_xlstm::dtype dtype;
  bool transposed;
};

/// Packing memory of one thread. It grows to what a product needs and is kept.
template <class T>
class gemm_scratch {
 public:
  enum place { a_panels, b_panels, rows, places };
  void* take(place p, index bytes) {
    slot& s = slots_[p];
    if (bytes > s.size) {
      s.memory.reset();
      s.size = 0;
      s.memory.reset(
          static_cast<std::byte*>(::operator new (static_cast<std::size_t>(bytes), std::align_val_t{64})));
      s.size = bytes;
    }
    return s.memory.get();
  }
  using sizes = std::array<index, places>;
  /// Bytes at hand.
  index size() const { return slots_[a_panels].size + slots_[b_panels].size + slots_[rows].size; }
  /// most[p] = max(most[p], bytes at hand there)
  void raise(sizes& most) const {
    for (std::size_t p = 0; p < places; ++p) most[p] = std::max(most[p], slots_[p].size);
  }
  void reserve(const sizes& bytes) {
    for (std::size_t p = 0; p < places; ++p) take(static_cast<place>(p), bytes[p]);
  }

 private:
  struct deleter {
    void operator()(std::byte* p) const { ::operator delete (p, std::align_val_t{64}); }
  };
  struct slot {
    std::unique_ptr<std::byte, deleter> memory;
    index size = 0;
  };
  slot slots_[places];
};

/// Rows up to which a product reads a transposed B without packing it.
inline constexpr index direct_rows = 8;

/// Whether it reads blocks of this kind without unpacking them.
constexpr bool multiplies_blocks(distil_xlstm::dtype type) {
  using enum distil_xlstm::dtype;
  return type == q8_0 || type == q4_0 || type == q4_1;
}

}  // namespace distil_xlstm::device::detail
