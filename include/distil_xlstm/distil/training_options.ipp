#pragma once

#include <cmath>
#include <utility>

#include <distil_xlstm/core/config.hpp>
#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/distil/training_options.hpp>

namespace distil_xlstm {

DISTIL_XLSTM_INLINE training_options possible(training_options o) {
  using count = std::pair<const char*, index>;
  for (const auto& [name, n] : {count{"batch", o.batch}, count{"length", o.length},
                                count{"accumulate", o.accumulate}, count{"sum_bytes", o.sum_bytes}})
    require(n >= 1, "training_options: ", name, " is ", n, ", it must be 1 or more");
  for (const auto& [name, n] : {count{"total_steps", o.total_steps}, count{"restart_epochs", o.restart_epochs},
                                count{"lr.warmup", o.lr.warmup}})
    require(n >= 0, "training_options: ", name, " is ", n, ", it must be 0 or more");
  using real = std::pair<const char*, double>;
  for (const auto& [name, x] : {real{"lr.peak", o.lr.peak}, real{"lr.floor", o.lr.floor}, real{"clip", o.clip},
                                real{"optimiser.weight_decay", o.optimiser.weight_decay},
                                real{"optimiser.epsilon", o.optimiser.epsilon}})
    require(x >= 0 && std::isfinite(x), "training_options: ", name, " is ", x, ", it must be 0 or more");
  for (const auto& [name, x] :
       {real{"optimiser.beta1", o.optimiser.beta1}, real{"optimiser.beta2", o.optimiser.beta2}})
    require(x >= 0 && x < 1, "training_options: ", name, " is ", x, ", it must be 0 or more and below 1");
  return o;
}

}  // namespace distil_xlstm
