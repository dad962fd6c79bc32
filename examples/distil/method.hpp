#pragma once

#include <distil_xlstm/distil/trainer.hpp>
#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/loss/distillation.hpp>

#include "train_options.hpp"

namespace program {

/// What a method means: the objective, its schedules, the optimiser.
struct method {
  dx::loss::distillation objective;
  dx::training_options options;
  double warmup_ratio = 0.05;
};

/// The method that was asked for, with all options that change it. Throws `usage_error`.
method resolved(const train_options& o);

/// What run.json says of the objective and the optimiser.
dx::io::json objective_json(const method& m);
dx::io::json optimiser_json(const method& m, const train_options& o);

}  // namespace program
