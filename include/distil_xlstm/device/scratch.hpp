#pragma once

#include <algorithm>
#include <cstddef>
#include <utility>
#include <vector>

#include <distil_xlstm/core/extent.hpp>
#include <distil_xlstm/device/one_caller.hpp>

/// The devices, CPU and GPU, with the verbs and operations that each has of its own.
namespace distil_xlstm::device {

namespace detail {

/// A stack of temporary memory. It grows while a first step runs and is one piece ever after, as large as what
/// was on lease at once. `Memory` has allocate(bytes) and release(pointer).
template <class Memory>
class scratch_stack {
 public:
  struct place {
    std::size_t chunk = 0;
    index used = 0;    ///< of the chunk
    index leased = 0;  ///< in all
  };
  explicit scratch_stack(Memory memory = {}) : memory_(memory) {}
  scratch_stack(scratch_stack&& other) noexcept
      : memory_(other.memory_),
        chunks_(std::exchange(other.chunks_, {})),
        top_(other.top_),
        most_(other.most_) {}
  scratch_stack& operator=(scratch_stack&&) = delete;
  ~scratch_stack() { clear(); }

  /// Whose the memory is while something is on lease.
  one_caller& caller() { return caller_; }
  place mark() const { return top_; }
  void* take(index bytes) {
    bytes = (bytes + alignment - 1) / alignment * alignment;
    while (top_.chunk < chunks_.size() && top_.used + bytes > chunks_[top_.chunk].size)
      ++top_.chunk, top_.used = 0;
    if (top_.chunk == chunks_.size()) {
      add(bytes > minimum ? bytes : minimum);
      top_.used = 0;
    }
    void* p = static_cast<std::byte*>(chunks_[top_.chunk].memory) + top_.used;
    top_.used += bytes;
    top_.leased += bytes;
    most_ = std::max(most_, top_.leased);
    return p;
  }
  void release(place to) {
    top_ = to;
    if (top_.leased == 0 && chunks_.size() > 1) replace(most_);
  }
  /// Bytes at hand.
  index size() const {
    index total = 0;
    for (const auto& c : chunks_) total += c.size;
    return total;
  }
  /// Changes whenever memory that was handed out before may be handed out no more.
  index generation() const { return generation_; }
  /// At least so many bytes in one piece; nothing may be on lease.
  void reserve(index bytes) {
    if (bytes > size()) replace(bytes);
  }

 private:
  static constexpr index alignment = 256;  // what a GPU's widest accesses like
  static constexpr index minimum = index{1} << 20;
  struct chunk {
    void* memory;
    index size;
  };
  void add(index bytes) {
    chunks_.reserve(chunks_.size() + 1);
    chunks_.push_back({memory_.allocate(bytes), bytes});
  }
  void clear() {
    for (const chunk& c : chunks_) memory_.release(c.memory);
    chunks_.clear();
  }
  void replace(index bytes) {
    ++generation_;
    clear();
    add(bytes);
  }
  Memory memory_;
  std::vector<chunk> chunks_;
  one_caller caller_;
  place top_;
  index most_ = 0;  ///< bytes on lease at once
  index generation_ = 0;
};

}  // namespace detail

/// A lease of temporary memory; leases end in the reverse order of their beginnings. Throws `error` where another
/// thread has one.
template <class T, class Memory>
class scratch_lease {
 public:
  /// n numbers of `stack`, as a device's `scratch<T>(n)` gives them.
  scratch_lease(detail::scratch_stack<Memory>& stack, index n)
      : stack_(stack),
        turn_(stack.caller()),
        mark_(stack.mark()),
        data_(static_cast<T*>(stack.take(n * static_cast<index>(sizeof(T))))) {}
  scratch_lease(const scratch_lease&) = delete;
  scratch_lease& operator=(const scratch_lease&) = delete;
  ~scratch_lease() { stack_.release(mark_); }
  /// The numbers, 64-byte aligned or better; nobody has set them.
  T* data() const { return data_; }

 private:
  detail::scratch_stack<Memory>& stack_;
  detail::one_caller::turn turn_;
  typename detail::scratch_stack<Memory>::place mark_;
  T* data_;
};

}  // namespace distil_xlstm::device
