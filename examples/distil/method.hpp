#pragma once

#include <distil_xlstm/distil/training_options.hpp>
#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/loss/any_objective.hpp>
#include <distil_xlstm/loss/distillation.hpp>

#include "engine.hpp"
#include "records.hpp"
#include "train_options.hpp"

namespace program {

/// What a method means: the objective, its schedules, the optimiser.
struct method {
  training_objective objective;
  dx::training_options options;
  double warmup_ratio = 0.05;
};

/// The method that was asked for, with all options that change it. Throws `usage_error`.
method resolved(const train_options& o);

/// The numbers of the objective at a step, as they are logged: alpha, beta and temperature, or the weight and the
/// temperature of each term of --objective, kl_weight and kl_temperature; where `constants` is false, of those that change.
named_values schedules_at(const training_objective& o, const dx::schedule::clock& clock, bool constants = true);

/// What run.json says of the objective (text_of() that of --objective) and the optimiser.
dx::io::json objective_json(const method& m);
dx::io::json optimiser_json(const method& m, const train_options& o);

}  // namespace program
