#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include <distil_xlstm/core/extent.hpp>
#include <distil_xlstm/distil/token_windows.hpp>
#include <distil_xlstm/optim/adamw.hpp>
#include <distil_xlstm/schedule/learning_rate.hpp>

namespace distil_xlstm {

/// What the steps of a training run depend on, beside student, text, teacher and objective.
struct training_options {
  index batch = 8;     ///< windows that are read at once
  index length = 128;  ///< tokens of a window
  /// Batches a step; their losses and gradients are those of one batch of all their tokens, but for an alignment
  /// that is a root over a batch (frobenius, scope::batch): that is taken of each, and the step has their mean.
  index accumulate = 1;
  index total_steps = 0;     ///< what schedules and the learning rate run over
  index restart_epochs = 0;  ///< schedules begin anew every so many epochs; 0: never
  window_order order = window_order::shuffled;
  std::uint64_t seed = 0;  ///< of the order
  schedule::learning_rate<double> lr{1e-3};
  optim::adamw optimiser{};  ///< weight decay is for the tensors whose layout says so
  /// What the learning rate of a tensor of this name is multiplied by, 0 or more; empty: 1 for all.
  std::function<double(const std::string&)> rate_of{};
  double clip = 1.0;  ///< largest norm of all gradients together; 0: no clipping
};

}  // namespace distil_xlstm
