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
  index batch = 8;     ///< windows that are read at once, by all ranks together: a multiple of their number
  index length = 128;  ///< tokens of a window
  /// Batches a step; their losses and gradients are those of one batch of all their tokens, but for an alignment
  /// that is a root over a batch (frobenius, scope::batch): that is taken of each, and the step has their mean.
  index accumulate = 1;
  index total_steps = 0;     ///< what schedules and the learning rate run over; a step asks for 1 or more
  index restart_epochs = 0;  ///< schedules begin anew every so many epochs; 0: never
  window_order order = window_order::shuffled;  ///< in which windows are read
  std::uint64_t seed = 0;                       ///< of the order
  /// An order of one's own in place of `order`: the window that row g of the run reads, g < batch * accumulate in the
  /// first step. A function of g alone, so that a resumed run goes on as if nothing had happened.
  std::function<index(index)> window_of{};
  schedule::learning_rate<double> lr{1e-3};  ///< its peak, warm-up and fall
  /// A learning rate of one's own in place of `lr`: 0 or more, a function of the clock alone.
  std::function<double(const schedule::clock&)> rate{};
  optim::adamw optimiser{};  ///< weight decay is for the tensors whose layout says so
  /// What the learning rate of a tensor of this name is multiplied by, 0 or more; empty: 1 for all.
  std::function<double(const std::string&)> rate_of{};
  double clip = 1.0;  ///< largest norm of all gradients together; 0: no clipping
  /// Of several ranks each keeps AdamW's moments for its part of the weights only, and updates that part (ZeRO, stage
  /// 1): the same numbers in less memory, and the weights travel once more a step.
  bool shard_optimiser = false;
  /// Several ranks sum gradients while backward goes on, whenever so many bytes of whole layers are there.
  index sum_bytes = index{32} << 20;
};

/// The options as they are given. Throws `error` naming the one that makes no sense. `total_steps` may be said later.
training_options possible(training_options o);

}  // namespace distil_xlstm

#ifndef DISTIL_XLSTM_COMPILED
#include <distil_xlstm/distil/training_options.ipp>
#endif
