#include "training_steps.hpp"

#include <algorithm>
#include <chrono>
#include <iostream>

#include <distil_xlstm/comm/agree.hpp>
#include <distil_xlstm/distil/perplexity.hpp>
#include <distil_xlstm/io/atomic_file.hpp>
#include <distil_xlstm/io/stream_decoder.hpp>
#include <distil_xlstm/io/write_tokenizer.hpp>
#include <distil_xlstm/model/sampler.hpp>

#include "gpu_ranks.hpp"
#include "method.hpp"
#include "one_job.hpp"
#include "processes.hpp"
#include "signals.hpp"
#include "text.hpp"

namespace program {

using dx::io::json;

namespace {

void warn(const std::string& why) { std::cerr << "distil: warning: " << why << "\n"; }

/// A run as it is compared with another: of a teacher its content, whatever it is called now.
json compared(json run) {
  if (run.contains("teacher") && run["teacher"].is_object())
    run["teacher"] = run["teacher"].value("sha256", json());
  return run;
}

/// The first key that makes a run that goes on another: its value has changed, it is there no longer, or was not.
std::optional<std::string> changed(const json& before, const json& now) {
  json had = compared(before), asked = compared(now);
  const auto may_lack = [](json& one, json& other, const char* key) {
    if (!one.contains(key)) other.erase(key);
  };
  // A text may be held out from a resume on, or no longer.
  may_lack(had, asked, "held_out_sha256"), may_lack(asked, had, "held_out_sha256");
  // The first checkpoints had none.
  may_lack(had, asked, "init_sha256");
  return difference(had, asked);
}

/// The last step that metrics.jsonl has a line of.
dx::index logged_steps(const fs::path& file) {
  dx::index last = 0;
  if (fs::exists(file))
    for (const auto& r : read_metrics(file))
      if (r.contains("step") && r.at("step").is_number()) last = std::max(last, r.at("step").get<dx::index>());
  return last;
}

/// ", 3 steps with nothing to score, 1 steps skipped as not finite"
std::string counted_steps(dx::index empty, dx::index skipped) {
  std::string text;
  if (empty > 0) text += ", " + grouped(empty) + " steps with nothing to score";
  if (skipped > 0) text += ", " + grouped(skipped) + " steps skipped as not finite";
  return text;
}

}  // namespace

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

dx::index whole_steps(const char* option, double asked, double steps) {
  if (!(steps < static_cast<double>(most_steps)))
    throw usage_error(std::string("--") + option + ": " + short_number(asked) + " are more than " +
                      grouped(most_steps) + " steps");
  return std::max<dx::index>(1, static_cast<dx::index>(steps));
}

double seconds_a_step(training& t) {
  t.total_steps(1);
  t.measure();  // allocates what later steps use
  const double t0 = now();
  int times = 0;
  do {
    t.measure();
    ++times;
  } while (dx::comm::from_root(processes(), times < 3 && now() - t0 < 10));
  return dx::comm::from_root(processes(), (now() - t0) / times);
}

void step_loop::held_out_before(teacher& from, const token_mix& tokens) const {
  if (!held_out) return;
  const dx::index window = held_out_window(run.options());
  const auto of_student = run.score(*held_out, window);
  const auto of_teacher = from.score(*held_out, window);
  if (leads())
    records.held_out_before(of_student, of_teacher, dx::score_unigram(tokens.texts(), *held_out, window));
}

void step_loop::begin() const {
  records.sync();
  run.save(store, identity);
}

int step_loop::operator()() const {
  const dx::index total = run.options().total_steps, first = run.step_count(),
                  tokens = tokens_a_step(run.options());
  const double started = now();
  while (run.step_count() < total) {
    const double t0 = now();
    named_values schedules, changing;
    if (objective)
      schedules = schedules_at(*objective, run.clock()),
      changing = schedules_at(*objective, run.clock(), false);
    const auto m = run.step();
    const double t1 = now(), rate = static_cast<double>(tokens) / (t1 - t0);
    const bool last = m.step == total;
    if (m.step % options.log_every == 0 || last || m.skipped || m.empty)
      records.step(m, schedules, m.step * tokens, rate);
    if (last) run.check();
    records.progress(m, changing, rate,
                     (t1 - started) / static_cast<double>(m.step - first) * static_cast<double>(total - m.step),
                     total);
    const bool due = options.evaluate_every > 0 && m.step % options.evaluate_every == 0;
    if (held_out && (due || last)) {
      const auto s = run.score(*held_out, held_out_window(run.options()));
      if (leads()) records.held_out(m.step, s);
    }
    const int stopped = static_cast<int>(dx::comm::largest(processes(), caught_signal));
    // While steps are not finite the last good checkpoints stay.
    if (stopped || last || (m.step % options.checkpoint_every == 0 && !m.skipped)) {
      records.sync();
      run.save(store, identity);
    }
    if (stopped) {
      records.end_progress();
      std::cerr << "distil: stopped by a signal at step " << m.step << ", checkpoint written\n";
      return 128 + stopped;
    }
  }
  records.end_progress();
  dx::require(run.updates() > 0, "none of ", total,
              " steps had a token to score; the student has learnt nothing");
  return 0;
}

int step_loop::or_diverged(const std::function<int()>& use, const std::function<void()>& report) const try {
  return use();
} catch (const dx::numeric_error& e) {
  records.diverged(run.step_count(), e.what());
  records.end_progress();
  records.sync();
  report();
  std::cerr << "distil: " << options.out.string() << ": " << (stage.empty() ? "" : stage + ": ") << e.what();
  if (const auto steps = store.steps(); !steps.empty())
    std::cerr << "; the checkpoint of step " << steps.back() << " stands";
  std::cerr << "; a smaller --lr or --clip may help\n";
  return 1;
}

void write_run(const train_options& o, int threads, const training& t, json identity, const json& more) {
  if (!leads()) return;
  json& run = identity;
  run["total_steps"] = t.options().total_steps;
  run["command"] = {{"teacher", valid_utf8(o.teacher.string())},
                    {"tokens", valid_utf8(o.tokens)},
                    {"held_out", valid_utf8(o.held_out.string())},
                    {"minutes", o.minutes},
                    {"device", o.where.device},
                    {"threads", threads > 0 ? threads : o.where.threads},
                    {"processes", processes().size()},
                    {"log_every", o.log_every},
                    {"checkpoint_every", o.checkpoint_every},
                    {"evaluate_every", o.evaluate_every},
                    {"prompt", o.prompt}};
#if defined(DISTIL_WITH_NCCL)
  if (o.where.device == "cuda" && processes().size() > 1) run["command"]["nccl"] = nccl_version();
#endif
  run["command"].update(more);
  run["parameters"] = {{"trainable", t.trainable()}, {"total", t.total()}};
  dx::io::write_text_atomically(o.out / "run.json", run.dump(2) + "\n");
}

void write_student(const fs::path& folder, const training& t,
                   const std::optional<dx::io::tokenizer_data>& tokenizer, json identity,
                   const run_totals& totals) {
  if (!leads()) return;
  t.save_student(folder);
  json& about = identity;
  about["tokens_seen"] = totals.tokens;
  about["skipped_steps"] = totals.skipped;
  about["empty_steps"] = totals.empty;
  dx::io::write_text_atomically(folder / "distil_xlstm.json", about.dump(2) + "\n");
  if (tokenizer) dx::io::write_tokenizer(folder, *tokenizer);
}

void say_done(const fs::path& out, const run_totals& totals, const std::string& reached) {
  std::cout << out.string() << ": " << grouped(totals.steps) << " steps, " << grouped(totals.tokens)
            << " tokens" << reached << counted_steps(totals.empty, totals.skipped) << "\n";
}

void require_one_run(json identity, const train_options& o) {
  identity = compared(std::move(identity));
  identity["checkpoint-every"] = o.checkpoint_every, identity["evaluate-every"] = o.evaluate_every;
  identity["shard-optimiser"] = o.shard_optimiser;
  require_one_job(identity);
}

void require_shares(const dx::training_options& o) {
  if (const auto n = processes().size(); o.batch % n != 0)
    throw usage_error("--batch: " + std::to_string(o.batch) + " windows cannot be dealt out to " +
                      std::to_string(n) + " processes: it must be a multiple of them");
}

std::optional<json> resumed_run::find(const dx::checkpoints& store, const std::string& where) const {
  std::optional<json> found;
  dx::comm::on_root(processes(), [&] {
    if (resume)
      found = store.newest_run();
    else
      dx::require(store.steps().empty(), where,
                  ": a run is there already; give --resume to go on with it, or another --out");
    dx::require(!found || found->is_object(), where, ": what the run there is known by is no object");
  });
  if (processes().size() == 1) return found;
  const std::string text = dx::comm::from_root(processes(), found ? found->dump() : std::string());
  return text.empty() ? std::nullopt : std::optional(json::parse(text));
}

bool resumed_run::restore(training& t, const dx::checkpoints& store, const std::string& where,
                          const std::optional<json>& found, const json& identity, dx::index asked) const {
  if (!found) {
    if (resume && logged_steps(out / "metrics.jsonl") > 0)
      warn(where + ": no checkpoint is there, though steps were logged: begins at step 0");
    return false;
  }
  // Before the tensors, which differ where the run does.
  if (const auto key = changed(*found, identity))
    dx::fail(where, ": the run there has another ", *key, ": ", value_text(*found, *key),
             ", this one asks for ", value_text(identity, *key));
  if (!t.restore(store, warn)) return false;
  const dx::index total = t.options().total_steps;
  dx::require(asked == 0 || asked == total, where, ": the run there has ", total,
              " steps, which its schedules depend on, this one asks for ", asked);
  for (const char* name : {"run.json", "metrics.jsonl"})
    if (!fs::exists(out / name))
      warn((out / name).string() + ": is not there" +
           (name == std::string("run.json") ? ", and is written anew"
                                            : ": the steps before are not in the report"));
  if (t.step_count() < total && fs::exists(out / "student"))
    warn(where + ": the last checkpoint of the finished run is missing: resumes at step " +
         std::to_string(t.step_count()) + " of " + std::to_string(total));
  return true;
}

void check_texts(const token_mix& tokens, const std::optional<dx::io::token_file>& held_out,
                 dx::index vocabulary, const std::optional<dx::io::tokenizer_data>& tokenizer) {
  for (const auto& text : tokens.files()) check_vocabulary(text, vocabulary, tokenizer, "the teacher");
  if (held_out) check_vocabulary(*held_out, vocabulary, tokenizer, "the teacher");
  if (tokenizer)
    for (const auto& text : tokens.files()) warn_without_ends(text, *tokenizer);
}

dx::index held_out_window(const dx::training_options& o) { return std::clamp<dx::index>(o.length, 2, 512); }

void require_held_out(const dx::io::token_file& text, dx::index window) {
  for (dx::index i = 1; i < text.size(); ++i)
    if (i % window != 0 && !text.starts_at(i)) return;
  dx::fail(text.path(), ": nothing to score: in windows of ", window,
           " tokens every document is one token long");
}

std::string sample_of(training& t, const std::optional<dx::io::tokenizer_data>& tokenizer,
                      const std::string& prompt, dx::index tokens, std::uint64_t seed) {
  if (!tokenizer || !leads()) return {};
  const dx::io::tokenizer encoder(*tokenizer);
  auto ids = encoder.encode(prompt, false).ids;
  if (encoder.document_start() >= 0) ids.insert(ids.begin(), encoder.document_start());
  if (ids.empty()) return {};
  dx::io::stream_decoder decoder(encoder, true);
  std::string text;
  t.write(ids, tokens, {.temperature = 0.7, .top_k = 40, .seed = seed}, [&](std::int32_t id) {
    if (encoder.is_end_of_text(id)) return false;
    text += decoder.put(id);
    return true;
  });
  return text + decoder.finish();
}

}  // namespace program
