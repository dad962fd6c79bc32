#pragma once

#include <algorithm>
#include <cstddef>
#include <string_view>
#include <vector>

#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/core/extent.hpp>

namespace distil_xlstm::detail {

/// Throws `error` that begins with `who` where all weights that `model` owns are 0: nobody has initialised or loaded
/// them. It looks at no more of them than up to the first that is not; and not at what a file holds.
template <class D, class Model>
void require_weights(D& device, const Model& model, std::string_view who) {
  if constexpr (requires { model.weights().data(); }) {
    using T = typename Model::scalar;
    const auto& weights = model.weights();
    std::vector<T> part(std::size_t{1} << 14);
    for (index at = 0, n; at < weights.size(); at += n) {
      n = std::min(std::ssize(part), weights.size() - at);
      device.download(part.data(), weights.data() + at, n * static_cast<index>(sizeof(T)));
      if (std::any_of(part.begin(), part.begin() + n, [](T x) { return x != T(0); })) return;
    }
    require(weights.size() == 0, who, ": every weight of the student is 0: initialise it, or load it, first");
  }
}

}  // namespace distil_xlstm::detail
