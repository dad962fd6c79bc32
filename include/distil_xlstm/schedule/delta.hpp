#pragma once

#include <distil_xlstm/schedule/logarithmic.hpp>

namespace distil_xlstm::schedule {

/// How the Delta rule lowers its start from epoch to epoch, never below `to`.
enum class decrement {
  relative,  ///< from <- from - Delta from (the authors' code)
  constant   ///< from <- from - Delta      (the paper)
};

/// What k in 1 + ln(1 + k) counts.
enum class counter {
  per_epoch,  ///< optimiser steps since the epoch began (the authors' code)
  global      ///< optimiser steps since the run began
};

/// How late a new value comes into use.
enum class update {
  paper,      ///< step j (from 0) uses k = j
  code,       ///< the value is renewed after a step, from the k before it: step j uses k = max(j - 1, 0)
  code_stale  ///< as `code` before 10 January 2025: besides, the first step of every later epoch still uses the
              ///< last value that the epoch before it computed
};

/// Delta-distillation (Distil-xLSTM): within an epoch to + (from_e - to) / (1 + ln(1 + k)), between epochs
/// from_e = max(from_{e-1} - Delta [from_{e-1}], to).
template <class S>
struct delta {
  using scalar = S;  ///< as the concept `Schedule` says
  /// @{
  /// The value at step 0, and the limit, below which no epoch starts.
  S from, to;
  /// @}
  S step = S(0.05);                      ///< Delta
  decrement rule = decrement::relative;  ///< whether Delta is a part of from_e or a number
  counter k = counter::per_epoch;        ///< what k counts
  update when = update::paper;           ///< which k a step uses

  /// from_e, the value at which epoch e starts.
  constexpr S base(index epoch) const {
    S b = from;
    for (index e = 0; e < epoch; ++e) {
      const S lower = b - (rule == decrement::relative ? step * b : step);
      if (!(lower > to)) return to;
      if (lower == b) return b;
      b = lower;
    }
    return b;
  }
  /// As the concept `Schedule` says.
  S at(const clock& c) const {
    const index epoch = c.epoch();
    index n = k == counter::per_epoch ? c.step_in_epoch() : c.step;
    if (when == update::paper) return detail::logarithmic_value(base(epoch), to, n);
    if (when == update::code_stale && epoch > 0 && c.step_in_epoch() == 0) {
      n = (k == counter::per_epoch ? c.steps_per_epoch : c.step) - 1;
      return detail::logarithmic_value(base(epoch - 1), to, n);
    }
    return detail::logarithmic_value(base(epoch), to, n > 0 ? n - 1 : 0);
  }
};
/// Of integers it counts in double.
template <class S, class D = S>
delta(S, S, D = {}, decrement = {}, counter = {}, update = {}) -> delta<detail::floating<S>>;

}  // namespace distil_xlstm::schedule
