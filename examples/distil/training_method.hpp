#pragma once

#include <filesystem>
#include <string>

#include <distil_xlstm/distil/trainer.hpp>
#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/loss/distillation.hpp>

#include "options.hpp"
#include "shared.hpp"

namespace program {

/// Seconds of a steady clock.
double now();

/// SIGINT and SIGTERM are remembered from now on.
void catch_signals();
/// The last of them; 0: none.
int caught_signal();

/// Keeps two runs out of one folder.
class folder_lock {
 public:
  explicit folder_lock(const fs::path& folder);
  ~folder_lock();
  folder_lock(const folder_lock&) = delete;
  folder_lock& operator=(const folder_lock&) = delete;

 private:
  int file_ = -1;
};

/// What a method means: the objective, its schedules, the optimiser.
struct method {
  dx::loss::distillation objective;
  dx::training_options options;
  double warmup_ratio = 0.05;
};

/// The method that was asked for, with what else was. Throws `usage_error`.
method resolved(const training_request& r);

dx::io::json schedule_json(const dx::schedule::any<double>& s);

/// "3 min 05 s"
std::string clock_text(double seconds);

}  // namespace program
