#pragma once

#include <utility>

#include <distil_xlstm/core/extent.hpp>

namespace distil_xlstm {

/// Work that is done again and again on the same memory, such as the step of a decoder. The first call does it;
/// on a device that can record, the second is recorded, and every later one is a single launch. On other
/// devices every call does the work.
///
/// What `work` asks for must not depend on anything that changes between calls but numbers in the device's
/// memory.
template <class D>
class recording {
  static constexpr bool records = requires(D d) { d.scratch_generation(); };

 public:
  recording() = default;
  recording(const recording&) = delete;
  recording& operator=(const recording&) = delete;
  ~recording() { forget(); }

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
      if (!graph_) {
        graph_ = device.record(std::forward<F>(work));
        generation_ = device.scratch_generation();
      }
      device.launch(graph_);
    }
  }
  void forget() {
    if constexpr (records) {
      if (graph_) D::discard(graph_);
      graph_ = {};
    }
  }

 private:
  template <class Device>
  static auto graph_type() {
    if constexpr (records)
      return typename Device::graph{};
    else
      return nullptr;
  }
  decltype(graph_type<D>()) graph_{};
  const void* key_ = nullptr;
  index generation_ = -1;
};

}  // namespace distil_xlstm
