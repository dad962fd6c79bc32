#pragma once

#include <string_view>

#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/schedule/cosine.hpp>

namespace distil_xlstm::schedule {

/// What a learning rate does after its warm-up.
enum class annealing { constant, cosine };

/// By the names of a command line: constant, cosine. Throws `error` on any other.
inline annealing annealing_named(std::string_view name) {
  if (name == "constant") return annealing::constant;
  if (name == "cosine") return annealing::cosine;
  fail("learning-rate schedule '", name, "' is not known (constant, cosine are)");
}

/// Linear warm-up to `peak` over `warmup` steps, then `peak`, or a half cosine down to `floor` at the run's
/// end. Step j of the warm-up (from 0) has peak (j + 1) / warmup; with `zero_start` peak j / warmup, as Hugging
/// Face's schedules do (there the first step does not move the parameters).
template <class S>
struct learning_rate {
  using scalar = S;                     ///< as the concept `Schedule` says
  S peak;                               ///< the highest rate, at the end of the warm-up
  S floor = S(0);                       ///< the rate at the end of the run; `constant` has none
  index warmup = 0;                     ///< in steps
  annealing after = annealing::cosine;  ///< what follows the warm-up
  bool zero_start = false;              ///< the rate of step 0 is 0

  /// As the concept `Schedule` says.
  S at(const clock& c) const {
    if (c.step < warmup) return peak * static_cast<S>(c.step + (zero_start ? 0 : 1)) / static_cast<S>(warmup);
    if (after == annealing::constant) return peak;
    const index left = c.total_steps - warmup;
    return cosine<S>{peak, floor, left > 0 ? left : 1}.at({c.step - warmup, left, 0});
  }
};

}  // namespace distil_xlstm::schedule
