#pragma once

#include <cmath>

#include <distil_xlstm/core/config.hpp>

namespace distil_xlstm::math {

/// exp(below / temperature): what a choice weighs whose logit is `below` (0 or less) from the highest.
DISTIL_XLSTM_HD inline double softmax_weight(double below, double temperature) {
  using std::exp;
  return exp(below / temperature);
}

}  // namespace distil_xlstm::math
