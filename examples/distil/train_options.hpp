#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "command.hpp"
#include "machine.hpp"

namespace program {

/// The options of `distil train`, most of which `distil linearise` has, too.
struct train_options {
  fs::path teacher, cache, held_out, out, init;
  std::string tokens;  ///< a file, or files with weights (token_mix.hpp)
  std::string method = "default", architecture = "default", order = "shuffled";
  dx::index blocks = 0, heads = 0;  ///< 0: the architecture's
  std::string slstm_at;             ///< "0,2,4", "all", "none"; empty: the architecture's
  dx::index batch = 0, length = 0, accumulate = 0, steps = 0, warmup = -1;  ///< 0 or -1: the method's
  double minutes = 0, epochs = 0;
  double repeats = 0;                                                      ///< share of the windows
  std::string alpha, beta, temperature, schedule, alignment, lr_schedule;  ///< empty: the method's
  std::optional<std::string> objective;
  double lr = 0, beta1 = -1, beta2 = -1, epsilon = 0, weight_decay = -1, clip = -1;
  std::uint64_t seed = 42;
  machine where;
  dx::index log_every = 1, checkpoint_every = 100, evaluate_every = 0;
  bool resume = false, shard_optimiser = false;
  std::string prompt = "In the beginning";
};

/// Those of the objective, but for --method; of the optimiser; of records.
po::options_description objective_options(train_options& r);
po::options_description optimiser_options(train_options& r);
po::options_description record_options(train_options& r);

/// Throws `usage_error` naming an option whose number, where it is given, is not possible.
void check_numbers(const po::variables_map& values);
void check_prompt(const std::string& prompt);

}  // namespace program
