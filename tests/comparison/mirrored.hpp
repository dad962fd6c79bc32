#pragma once

#include <utility>
#include <vector>

#include <distil_xlstm/core/view.hpp>
#include <distil_xlstm/device/device.hpp>
#include <distil_xlstm/testing/on_host.hpp>

namespace distil_xlstm::testing {

/// Vectors of the host as a device works on them: themselves where it shares the memory, else copies that
/// `back` writes to where they came from.
template <class D>
class mirrored {
 public:
  explicit mirrored(D& device) : device_(device) {}

  template <class T>
  T* operator()(std::vector<T>& x) {
    if constexpr (D::host_memory) {
      return x.data();
    } else {
      if (x.empty()) return nullptr;
      const index bytes = static_cast<index>(x.size() * sizeof(T));
      copies_.push_back({x.data(), buffer<char, D>(device_, bytes)});
      device_.upload(copies_.back().second.data(), x.data(), bytes);
      return reinterpret_cast<T*>(copies_.back().second.data());
    }
  }
  template <class T>
  matrix_view<T> matrix(std::vector<T>& x, index rows) {
    return {(*this)(x), rows, static_cast<index>(x.size()) / rows};
  }
  void back() {
    for (auto& [host, copy] : copies_) device_.download(host, copy.data(), copy.size());
  }

 private:
  D& device_;
  std::vector<std::pair<void*, buffer<char, D>>> copies_;
};

}  // namespace distil_xlstm::testing
