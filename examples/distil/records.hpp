#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <distil_xlstm/distil/perplexity.hpp>
#include <distil_xlstm/distil/step_metrics.hpp>
#include <distil_xlstm/io/json.hpp>

#include "common.hpp"
#include "metrics_log.hpp"
#include "report.hpp"
#include "tensorboard.hpp"

namespace program {

/// Values under the names that they are logged by.
using named_values = std::vector<std::pair<std::string, double>>;

/// What a run writes while it trains: metrics.jsonl, TensorBoard events, and a line on the terminal. Of several processes
/// rank 0 does, and for the others nothing happens here.
class run_records {
 public:
  /// In the folder of the run, which has done `step` steps; what is there of later ones is dropped.
  run_records(const fs::path& folder, dx::index step, bool fresh);
  ~run_records() { end_progress(); }
  run_records(const run_records&) = delete;
  run_records& operator=(const run_records&) = delete;

  /// A run of several stages: the steps that follow are of this one, and those before it counted `steps` and `tokens`.
  void stage(const std::string& name, dx::index steps, dx::index tokens) {
    stage_ = name, steps_before_ = steps, tokens_before_ = tokens;
  }
  /// The held-out text before the first step.
  void held_out_before(const dx::text_score& student, const std::optional<dx::text_score>& teacher,
                       const dx::text_score& unigram);
  void held_out(dx::index step, const dx::text_score& student);
  /// A step with the objective's schedules in it, after `tokens` at `rate` tokens a second.
  void step(const dx::step_metrics& m, const named_values& schedules, dx::index tokens, double rate);
  /// Shows a step on the terminal, `left` seconds before the end of `total` steps.
  void progress(const dx::step_metrics& m, const named_values& schedules, double rate, double left,
                dx::index total);
  /// Puts a line below it on the terminal.
  void say(const std::string& text);
  void end_progress();
  /// Where the run has diverged, and how.
  void diverged(dx::index step, const std::string& how);
  /// What the last step with something to score and the last look at the held-out text gave: ", total 2.31, ..."; empty
  /// where there was neither.
  std::string reached() const { return total_ + held_out_; }
  /// Puts all records onto the disk.
  void sync() {
    if (log_) log_->sync();
  }

 private:
  void reached(double total) { total_ = ", total " + short_number(total), held_out_ = {}; }
  void reached_held_out(double ppl) { held_out_ = ", held-out perplexity " + short_number(ppl); }

  std::optional<metrics_log> log_;
  std::optional<tensorboard_writer> board_;
  bool line_open_ = false;
  std::string stage_;  ///< empty: there is but one
  dx::index steps_before_ = 0, tokens_before_ = 0;
  std::string total_, held_out_;
};

/// What report.html says beside what metrics.jsonl and run.json hold.
struct report_texts {
  std::string title, subtitle, prompt, sample;
  dx::index tokens_seen = 0;
  std::vector<report_table> tables = {};
};
void write_run_report(const fs::path& folder, const report_texts& texts);

}  // namespace program
