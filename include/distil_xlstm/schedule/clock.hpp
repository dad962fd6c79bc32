#pragma once

#include <distil_xlstm/core/extent.hpp>

namespace distil_xlstm::schedule {

/// The time of a training run, as schedules read it.
struct clock {
  index step = 0;             ///< optimiser steps finished before this one: the first step of a run sees 0
  index total_steps = 0;      ///< steps of the whole run; schedules without a length of their own span it
  index steps_per_epoch = 0;  ///< 0: the run is one epoch

  /// That of `step`, from 0.
  constexpr index epoch() const { return steps_per_epoch > 0 ? step / steps_per_epoch : 0; }
  /// Steps finished since the epoch began.
  constexpr index step_in_epoch() const { return steps_per_epoch > 0 ? step % steps_per_epoch : step; }

  /// The clock of a job that starts anew every `epochs` epochs (the authors' runs are such chains of jobs).
  constexpr clock restarted(index epochs) const {
    const index span = epochs * steps_per_epoch;
    if (span <= 0) return *this;
    return {step % span, total_steps > 0 && total_steps < span ? total_steps : span, steps_per_epoch};
  }
};

}  // namespace distil_xlstm::schedule
