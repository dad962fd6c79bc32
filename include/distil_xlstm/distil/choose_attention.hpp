#pragma once

#include <cstddef>
#include <utility>
#include <vector>

#include <distil_xlstm/model/linearised.hpp>

namespace distil_xlstm {

/// One choice: the layer whose attention lowered the cost most, and what it would have been with each (0 of those that
/// had been chosen).
struct kept_attention {
  index layer = 0;            ///< from 0
  double cost = 0;            ///< with this layer's attention, and that of those chosen before
  std::vector<double> costs;  ///< of each layer
};

/// Which layers of a transformer keep their attention where all others have a window, found without training: one after
/// another, that which lowers cost(mixers) most, given those before. `mixers` are attention or window, one a layer.
/// Throws `error` where there are not so many layers.
template <class Cost>
std::vector<kept_attention> choose_attention(index layers, index keep, const Cost& cost) {
  require(keep >= 0 && keep <= layers, "of ", layers, " layers ", keep, " cannot keep their attention");
  std::vector<mixer_kind> mixers(static_cast<std::size_t>(layers), mixer_kind::window);
  std::vector<kept_attention> out;
  for (index k = 0; k < keep; ++k) {
    kept_attention best{-1, 0, std::vector<double>(static_cast<std::size_t>(layers))};
    for (index i = 0; i < layers; ++i) {
      auto& mixer = mixers[static_cast<std::size_t>(i)];
      if (mixer == mixer_kind::attention) continue;
      mixer = mixer_kind::attention;
      const double c = best.costs[static_cast<std::size_t>(i)] = cost(std::as_const(mixers));
      mixer = mixer_kind::window;
      if (best.layer < 0 || c < best.cost) best.layer = i, best.cost = c;
    }
    mixers[static_cast<std::size_t>(best.layer)] = mixer_kind::attention;
    out.push_back(std::move(best));
  }
  return out;
}

}  // namespace distil_xlstm
