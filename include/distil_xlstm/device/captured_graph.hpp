#pragma once

#include <utility>

#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/core/extent.hpp>

namespace distil_xlstm {

/// Work that is done again and again on the same memory, such as the step of a decoder. The first call does it;
/// on a device that can record, the second is recorded, and every later one is a single launch. On other
/// devices every call does the work.
///
/// What `work` asks for must not depend on anything that changes between calls but numbers in the device's
/// memory.
template <class D>
class captured_graph {
  static constexpr bool records = requires(D d) { d.scratch_generation(); };

 public:
  captured_graph() = default;
  /// @{ What was recorded goes with it.
  captured_graph(captured_graph&& other) noexcept { swap(other); }
  captured_graph& operator=(captured_graph&& other) noexcept {
    swap(other);
    return *this;
  }
  /// @}
  ~captured_graph() { forget(); }

  /// `key` names the memory that the caller chose: what was recorded for another is forgotten.
  template <class F>
  void operator()(D& device, const void* key, F&& work) {
    if constexpr (!records) {
      work();
    } else {
      if (key != key_ || generation_ != device.scratch_generation()) {
        forget();
        key_ = key;
        work();
        generation_ = device.scratch_generation();
        return;
      }
      if (!graph_ && !impossible_) try {
          graph_ = device.record(work);
          generation_ = device.scratch_generation();
        } catch (const error&) {
          impossible_ = true;
        }
      if (impossible_)
        work();
      else
        device.launch(graph_);
    }
  }
  /// The next call does the work as if it were the first.
  void forget() {
    if constexpr (records) {
      if (graph_) D::discard(graph_);
      graph_ = {};
    }
    key_ = nullptr, generation_ = -1, impossible_ = false;
  }
  /// Whether the next call is a launch of what was recorded.
  bool recorded() const { return graph_ != decltype(graph_){}; }

 private:
  template <class Device>
  static auto graph_type() {
    if constexpr (records)
      return typename Device::graph{};
    else
      return nullptr;
  }
  decltype(graph_type<D>()) graph_{};
  void swap(captured_graph& other) {
    std::swap(graph_, other.graph_);
    std::swap(key_, other.key_);
    std::swap(generation_, other.generation_);
    std::swap(impossible_, other.impossible_);
  }
  const void* key_ = nullptr;
  index generation_ = -1;
  bool impossible_ = false;
};

}  // namespace distil_xlstm
