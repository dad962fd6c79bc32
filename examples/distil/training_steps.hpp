#pragma once

#include <functional>
#include <optional>
#include <string>

#include <distil_xlstm/distil/checkpoint.hpp>
#include <distil_xlstm/distil/training_options.hpp>
#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/io/token_file.hpp>
#include <distil_xlstm/io/tokenizer_data.hpp>

#include "engine.hpp"
#include "records.hpp"
#include "token_mix.hpp"
#include "train_options.hpp"

namespace program {

// What the commands that train have in common: `train` and each stage of `linearise`.

/// Seconds of a steady clock.
double now();

/// What must not be more than a checkpoint's name can hold.
inline constexpr dx::index most_steps = 99'999'999;
/// At least one step. Throws `usage_error` naming the option that asks for too many.
dx::index whole_steps(const char* option, double asked, double steps);
/// By the speed of the first ones, which update nothing; the same for all processes.
double seconds_a_step(training& t);
/// Tokens that a step reads.
inline dx::index tokens_a_step(const dx::training_options& o) { return o.batch * o.length * o.accumulate; }

/// Trains to the end, with its records and checkpoints, as `options` say. Of several processes all do, and rank 0 alone
/// writes and scores; what one decides they decide together: a signal stops all after the same step.
struct step_loop {
  const train_options& options;
  training& run;
  run_records& records;
  const dx::checkpoints& store;
  const dx::io::json& identity;
  const training_objective* objective = nullptr;  ///< whose schedules are logged
  const dx::io::token_file* held_out = nullptr;   ///< null: nothing is evaluated
  std::string stage = {};                         ///< empty: there is but one

  /// Records the held-out text before the first step, where there is one: of the student, the teacher, and the unigram
  /// counts of `tokens`.
  void held_out_before(teacher& from, const token_mix& tokens) const;
  /// Puts the records and the checkpoint of step 0 on the disk.
  void begin() const;
  /// 0, or the status of a run that a signal has stopped. Throws `dx::numeric_error` where it has diverged.
  int operator()() const;
  /// use(), or where it says that the run has diverged, its records and report() on the disk, why on stderr, and 1.
  int or_diverged(const std::function<int()>& use, const std::function<void()>& report) const;
};

/// What run.json says, which rank 0 writes: the run's identity, its length and size, and the command line that asked for it, of which `more`
/// is what one subcommand has alone. `threads`: the engine's.
void write_run(const train_options& o, int threads, const training& t, dx::io::json identity,
               const dx::io::json& more = dx::io::json::object());

/// What a run came to.
struct run_totals {
  dx::index steps = 0, tokens = 0, empty = 0, skipped = 0;
};
/// Rank 0 writes the student that a run ends with into `folder`: weights, tokenizer, and in distil_xlstm.json the run's
/// identity and totals.
void write_student(const fs::path& folder, const training& t,
                   const std::optional<dx::io::tokenizer_data>& tokenizer, dx::io::json identity,
                   const run_totals& totals);
/// Says on stdout that the run in `out` has ended, and what it `reached`, as `run_records` has it.
void say_done(const fs::path& out, const run_totals& totals, const std::string& reached);

/// Throws `error` on all processes where one of them has another run than rank 0, another teacher or text, or saves at
/// other steps. It names what is another.
void require_one_run(dx::io::json identity, const train_options& o);
/// Throws `usage_error` where the processes cannot share a batch.
void require_shares(const dx::training_options& o);

/// What a run that goes on finds: false where it begins at step 0, which it must without `resume`. Warns about what is
/// damaged or lost. Throws `error` where another run is there: identity, or `asked` steps (0: any).
struct resumed_run {
  fs::path out;
  bool resume = false;
  /// The identity of the newest checkpoint, where there is one; of several processes as rank 0 finds it. Throws where there is one and `resume` is false.
  std::optional<dx::io::json> find(const dx::checkpoints& store, const std::string& where) const;
  /// `found` is what `find` gave.
  bool restore(training& t, const dx::checkpoints& store, const std::string& where,
               const std::optional<dx::io::json>& found, const dx::io::json& identity, dx::index asked) const;
};

/// Throws `error` where a text does not fit the teacher; warns where no document has an end.
void check_texts(const token_mix& tokens, const std::optional<dx::io::token_file>& held_out,
                 dx::index vocabulary, const std::optional<dx::io::tokenizer_data>& tokenizer);
/// The windows that held-out text is scored in.
dx::index held_out_window(const dx::training_options& o);
/// Throws `error` where in them is nothing to score.
void require_held_out(const dx::io::token_file& text, dx::index window);

/// The prompt continued at temperature 0.7 from the 40 most likely tokens: a look at what the student has learnt. Empty
/// without a tokenizer.
std::string sample_of(training& t, const std::optional<dx::io::tokenizer_data>& tokenizer,
                      const std::string& prompt, dx::index tokens, std::uint64_t seed);

}  // namespace program
