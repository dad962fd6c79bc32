#pragma once

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <iostream>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include <distil_xlstm/distil/checkpoint.hpp>
#include <distil_xlstm/distil/perplexity.hpp>
#include <distil_xlstm/distil/teacher_cache.hpp>
#include <distil_xlstm/io/stream_decoder.hpp>
#include <distil_xlstm/io/tokenizer.hpp>
#include <distil_xlstm/io/write_tokenizer.hpp>
#include <distil_xlstm/model/decoder.hpp>
#include <distil_xlstm/model/load_llama.hpp>
#include <distil_xlstm/model/load_xlstm.hpp>
#include <distil_xlstm/model/reader.hpp>

#include "metrics_log.hpp"
#include "options.hpp"
#include "report.hpp"
#include "shared.hpp"
#include "tensorboard.hpp"
#include "training_method.hpp"

namespace program {

/// Continues a prompt at temperature 0.7, out of the 40 likeliest: a look at what the student has learnt.
template <class T, class D>
std::string sample_text(D& device, const dx::xlstm<T, D>& student, const dx::io::tokenizer& t,
                        const std::string& prompt, dx::index tokens, std::uint64_t seed) {
  auto ids = t.encode(prompt, false).ids;
  if (t.document_start() >= 0) ids.insert(ids.begin(), t.document_start());
  if (ids.empty()) return {};
  dx::io::stream_decoder decoder(t, true);
  std::string text;
  const dx::sampling how{.temperature = 0.7, .top_k = 40, .seed = seed};
  dx::generate(device, student, ids, tokens, how, [&](std::int32_t id) {
    if (t.is_end_of_text(id)) return false;
    text += decoder.put(id);
    return true;
  });
  return text + decoder.finish();
}

/// One run: what it was asked, what it reads, what it writes.
template <class T, class D>
class training_run {
  using json = dx::io::json;

 public:
  training_run(D& device, const training_request& r)
      : request_(r), method_(resolved(r)), lock_(r.out), device_(device), tokens_(r.tokens) {
    if (!r.held_out.empty()) held_out_.emplace(r.held_out);
    open_teacher();
    windows_.emplace(tokens_, method_.options.length);
    make_student();
  }

  int run() {
    auto& o = method_.options;
    trainer_type trainer(device_, *student_, *windows_, *source_, method_.objective, o);
    const dx::checkpoints store(request_.out / "checkpoints");
    const json identity = this->identity();
    const bool fresh = !restore(trainer, store, identity);
    if (fresh) choose_length(trainer);
    const dx::index total = trainer.options().total_steps;
    set_warmup(trainer, total);

    metrics_log log(request_.out / "metrics.jsonl");
    log.truncate_after(fresh ? -1 : trainer.step_count());
    tensorboard_writer board(request_.out, trainer.step_count() + 1);
    if (fresh) {
      write_run(identity, total);
      if (held_out_) {
        const auto before = score(*student_);
        const auto teacher = teacher_ ? std::optional(score(*teacher_).perplexity()) : std::nullopt;
        const auto unigram = dx::score_unigram(tokens_, *held_out_, window());
        record line{{"step", 0}, {"held_out_ppl", before.perplexity()}};
        if (teacher) line["teacher_ppl"] = *teacher;
        line["unigram_ppl"] = unigram.perplexity();
        line["held_out_scored"] = before.scored;
        log.append(line);
        say("held-out perplexity before training " + short_number(before.perplexity()) +
            (teacher ? ", teacher " + short_number(*teacher) : "") + ", unigram " +
            short_number(unigram.perplexity()));
      }
      log.sync();
      store.save(trainer, identity);
    }
    const double started = now();
    const dx::index first = trainer.step_count();
    dx::index tokens_seen = first * o.batch * o.length * o.accumulate;
    while (trainer.step_count() < total) {
      const double t0 = now();
      const auto weights = method_.objective.at_step(trainer.clock());
      const auto m = trainer.step();
      const double seconds = now() - t0;
      tokens_seen += o.batch * o.length * o.accumulate;
      const double rate = static_cast<double>(o.batch * o.length * o.accumulate) / seconds;
      const bool last = m.step == total;
      if (m.step % request_.log_every == 0 || last || m.skipped)
        log_step(log, board, m, weights, tokens_seen, rate);
      progress(m, weights, rate,
               (now() - started) / static_cast<double>(m.step - first) * static_cast<double>(total - m.step),
               total);
      const bool due = request_.evaluate_every > 0 && m.step % request_.evaluate_every == 0;
      if (held_out_ && (due || last)) evaluate(log, board, m.step);
      const int stopped = caught_signal();
      if (stopped || last || m.step % request_.checkpoint_every == 0) {
        log.sync();
        store.save(trainer, identity);
      }
      if (stopped) {
        end_progress();
        std::cerr << "distil: stopped by a signal at step " << m.step << ", checkpoint written\n";
        return 128 + stopped;
      }
    }
    end_progress();
    dx::require(trainer.count().updates > 0, request_.out.string(), ": none of ", total,
                " steps had a finite gradient; the student has learnt nothing");
    finish(trainer.count().skipped, tokens_seen, identity);
    return 0;
  }

 private:
  using student_type = dx::xlstm<T, D>;
  using trainer_type = dx::trainer<student_type, dx::loss::distillation>;
  using weights_type = dx::loss::distillation::numbers;
  using teacher_type = dx::llama<T, D>;

  void open_teacher() {
    const bool live = request_.cache.empty();
    if (live) {
      teacher_.emplace(dx::load_llama<T>(device_, request_.teacher));
      teacher_name_ = request_.teacher.filename().string();
      tokenizer_data_ = tokenizer_of(request_.teacher);
      layers_ = teacher_->config().layers, teacher_heads_ = teacher_->config().heads;
      embedding_ = teacher_->embedding(), head_ = teacher_->head(), owner_ = teacher_->owner();
    } else {
      cache_.emplace(request_.cache);
      if (!request_.teacher.empty()) cache_->verify_teacher(hash_of(request_.teacher));
      teacher_name_ = cache_->identity().teacher;
      if (fs::exists(request_.cache / "tokenizer.json")) tokenizer_data_ = tokenizer_of(request_.cache);
      layers_ = cache_->identity().layers;
      const auto ends =
          dx::upload_embedding_and_head<T>(device_, cache_->embedding(), cache_->head(), cache_->owner());
      embedding_ = ends.embedding, head_ = ends.head, owner_ = ends.owner;
    }
    for (const auto* text : {&tokens_, held_out_ ? &*held_out_ : nullptr})
      if (text) check_vocabulary(*text);
  }
  void check_vocabulary(const dx::io::token_file& text) const {
    dx::require(text.vocab_size() <= embedding_.rows, text.path(), ": made with a vocabulary of ",
                text.vocab_size(), ", the teacher has ", embedding_.rows);
    if (tokenizer_data_ && !text.tokenizer_sha256().empty())
      dx::require(text.tokenizer_sha256() == dx::io::tokenizer(*tokenizer_data_).fingerprint(), text.path(),
                  ": made with another tokenizer than the teacher's");
  }

  void make_student() {
    const auto& r = request_;
    if (!r.init.empty()) {
      student_.emplace(dx::load_xlstm<T>(device_, r.init));
    } else {
      auto c = of_option("architecture", [&] {
        return dx::xlstm_architecture(r.architecture, embedding_.rows, embedding_.cols, layers_, teacher_heads_,
                                      embedding_.data == head_.data);
      });
      dx::require(c.mlstm_heads > 0 || r.heads > 0, "--architecture ", r.architecture,
                  ": needs the teacher's number of heads, which a cache does not hold: give --heads");
      if (r.blocks > 0) {
        c.blocks = r.blocks;
        c.slstm_at.clear();
        for (dx::index b = 0; b < c.blocks; b += 2) c.slstm_at.push_back(b);
      }
      if (r.heads > 0) c.mlstm_heads = c.slstm_heads = r.heads;
      if (!r.slstm_at.empty()) c.slstm_at = blocks_of(r.slstm_at, c.blocks);
      c.context_length = method_.options.length;
      student_.emplace(device_, c, embedding_, head_, owner_);
      student_->initialise(device_, r.seed);
    }
    dx::require(student_->width() == embedding_.cols && student_->vocabulary() == embedding_.rows,
                r.init.string(), ": a student of width ", student_->width(), " and vocabulary ",
                student_->vocabulary(), ", the teacher has ", embedding_.cols, " and ", embedding_.rows);
    auto& objective = method_.objective;
    const bool unused = objective.beta.from == 0 && objective.beta.to == 0;
    if (unused) objective.form = dx::loss::alignment::none;
    if (teacher_) {
      source_ = std::make_unique<dx::live_teacher<teacher_type>>(*teacher_);
    } else {
      cache_->verify(tokens_.data_sha256(), windows_->count(), method_.options.length);
      source_ = std::make_unique<dx::cached_teacher<T, D>>(*cache_);
    }
  }
  static std::vector<dx::index> blocks_of(const std::string& text, dx::index blocks) {
    std::vector<dx::index> out;
    if (text == "none") return out;
    if (text == "all") {
      for (dx::index b = 0; b < blocks; ++b) out.push_back(b);
      return out;
    }
    std::stringstream in(text);
    for (std::string part; std::getline(in, part, ',');) {
      if (part.empty() || part.size() > 6 || part.find_first_not_of("0123456789") != part.npos)
        throw usage_error("--slstm-at: '" + text + "' is not a list of blocks such as 0,2,4");
      out.push_back(std::stol(part));
    }
    return out;
  }

  /// What must be the same when a run goes on.
  json identity() const {
    const auto& o = method_.options;
    const auto& objective = method_.objective;
    const json teacher = {{"name", teacher_name_},
                          {"sha256", cache_ ? cache_->identity().teacher_sha256 : hash_of(request_.teacher)}};
    return {{"teacher", teacher},
            {"tokens_sha256", tokens_.data_sha256()},
            {"method", request_.method},
            {"precision", request_.where.precision},
            {"seed", request_.seed},
            {"order", request_.order},
            {"batch", o.batch},
            {"length", o.length},
            {"accumulate", o.accumulate},
            {"student", dx::write_xlstm_config(student_->config())["xlstm_cfg"]},
            {"objective",
             {{"alpha", schedule_json(objective.alpha)},
              {"beta", schedule_json(objective.beta)},
              {"temperature", schedule_json(objective.temperature)},
              {"alignment", dx::loss::name_of(objective.form)}}},
            {"optimiser",
             {{"lr", o.lr.peak},
              {"lr_schedule", o.lr.after == dx::schedule::annealing::cosine ? "cosine" : "constant"},
              {"warmup", request_.warmup},
              {"beta1", o.optimiser.beta1},
              {"beta2", o.optimiser.beta2},
              {"weight_decay", o.optimiser.weight_decay},
              {"clip", o.clip}}}};
  }

  bool restore(trainer_type& trainer, const dx::checkpoints& store, const json& identity) {
    if (!request_.resume) {
      dx::require(store.steps().empty(), (request_.out / "checkpoints").string(),
                  ": a run is there already; give --resume to go on with it, or another --out");
      return false;
    }
    const auto run = store.newest_run();  // compared before the tensors, which differ where the run does
    if (!run) return false;
    const std::string where = (request_.out / "checkpoints").string();
    for (const auto& [key, value] : identity.items())
      dx::require(run->contains(key) && run->at(key) == value, where, ": the run there has another ", key, ": ",
                  run->value(key, json()).dump(), ", this one asks for ", value.dump());
    if (!store.restore(trainer,
                       [](const std::string& why) { std::cerr << "distil: warning: " << why << "\n"; }))
      return false;
    const dx::index total = trainer.options().total_steps, asked = asked_length(trainer);
    dx::require(asked == 0 || asked == total, where, ": the run there has ", total,
                " steps, which its schedules depend on, this one asks for ", asked);
    return true;
  }

  /// The steps that --steps or --epochs ask for; 0: --minutes decides.
  dx::index asked_length(const trainer_type& trainer) const {
    if (request_.epochs > 0)
      return std::max<dx::index>(
          1, std::llround(request_.epochs * static_cast<double>(trainer.steps_per_epoch())));
    return request_.steps;
  }
  /// --steps, --epochs, or --minutes by the speed of a first step (which updates nothing).
  void choose_length(trainer_type& trainer) {
    dx::index total = asked_length(trainer);
    if (total == 0) {
      trainer.total_steps(1);
      trainer.measure();  // warms memory up
      const double t0 = now();
      int times = 0;
      do {
        trainer.measure();
        ++times;
      } while (times < 3 && now() - t0 < 10);
      const double each = (now() - t0) / times;
      total = std::max<dx::index>(1, static_cast<dx::index>(request_.minutes * 60 / each));
    }
    trainer.total_steps(total);
  }
  void set_warmup(trainer_type& trainer, dx::index total) {
    trainer.warmup(request_.warmup >= 0
                       ? request_.warmup
                       : static_cast<dx::index>(method_.warmup_ratio * static_cast<double>(total)));
  }

  dx::index window() const { return std::max<dx::index>(2, std::min<dx::index>(512, method_.options.length)); }

  template <class Model>
  dx::text_score score(const Model& model) {
    return dx::score_text<T>(device_, *held_out_, window(), 8, model.head(), dx::reader(device_, model));
  }
  void evaluate(metrics_log& log, tensorboard_writer& board, dx::index step) {
    const auto s = score(*student_);
    log.append({{"step", step}, {"held_out_ppl", s.perplexity()}, {"held_out_scored", s.scored}});
    board.scalar(step, "held_out/perplexity", s.perplexity());
    end_progress();
    say("step " + std::to_string(step) + ": held-out perplexity " + short_number(s.perplexity()));
  }

  void log_step(metrics_log& log, tensorboard_writer& board, const dx::step_metrics& m,
                const weights_type& weights, dx::index tokens, double rate) {
    record line{{"step", m.step},
                {"epoch", m.epoch},
                {"tokens", tokens},
                {"tokens_per_second", significant(rate, 4)},
                {"ce", m["ce"]},
                {"kl", m["kl"]},
                {"alignment", m["alignment"]},
                {"total", m.total},
                {"grad_norm", m.grad_norm},
                {"lr", m.lr},
                {"alpha", weights.alpha},
                {"beta", weights.beta},
                {"temperature", weights.temperature}};
    if (m.skipped) line["skipped"] = true;
    log.append(line);
    board.scalars(m.step, {{"loss/ce", m["ce"]},
                           {"loss/kl", m["kl"]},
                           {"loss/alignment", m["alignment"]},
                           {"loss/total", m.total},
                           {"optimiser/grad_norm", m.grad_norm},
                           {"optimiser/lr", m.lr},
                           {"schedule/alpha", weights.alpha},
                           {"schedule/beta", weights.beta},
                           {"schedule/temperature", weights.temperature},
                           {"speed/tokens_per_second", rate}});
  }

  void progress(const dx::step_metrics& m, const weights_type& weights, double rate, double left,
                dx::index total) {
    if (!::isatty(2)) return;
    char line[256];
    std::snprintf(line, sizeof line,
                  "\r\033[Kstep %ld/%ld epoch %ld  %.0f tok/s  left %s  ce %.3f kl %.3f align %.3f total %.3f  "
                  "|g| %.2f  lr %.2e  "
                  "alpha %.2f T %.2f",
                  static_cast<long>(m.step), static_cast<long>(total), static_cast<long>(m.epoch), rate,
                  clock_text(left).c_str(), m["ce"], m["kl"], m["alignment"], m.total, m.grad_norm, m.lr,
                  weights.alpha, weights.temperature);
    std::cerr << line << std::flush;
    line_open_ = true;
  }
  void end_progress() {
    if (std::exchange(line_open_, false)) std::cerr << "\n";
  }
  static void say(const std::string& text) {
    if (::isatty(2)) std::cerr << text << "\n";
  }

  void write_run(const json& identity, dx::index total) const {
    json run = identity;
    run["total_steps"] = total;
    run["command"] = {{"teacher", request_.teacher.string()},
                      {"cache", request_.cache.string()},
                      {"tokens", request_.tokens.string()},
                      {"held_out", request_.held_out.string()},
                      {"init", request_.init.string()},
                      {"architecture", request_.architecture},
                      {"minutes", request_.minutes},
                      {"device", request_.where.device},
                      {"threads", threads()},
                      {"log_every", request_.log_every},
                      {"checkpoint_every", request_.checkpoint_every},
                      {"evaluate_every", request_.evaluate_every},
                      {"prompt", request_.prompt}};
    run["parameters"] = {{"trainable", student_->config().trainable()}, {"total", student_->config().total()}};
    dx::io::write_text_atomically(request_.out / "run.json", run.dump(2) + "\n");
  }

  int threads() const {
    if constexpr (requires { device_.threads(); })
      return device_.threads();
    else
      return request_.where.threads;
  }

  void finish(dx::index skipped, dx::index tokens_seen, const json& identity) {
    const fs::path folder = request_.out / "student";
    dx::save_xlstm(device_, *student_, folder);
    json about = identity;
    about["tokens_seen"] = tokens_seen;
    about["skipped_steps"] = skipped;
    dx::io::write_text_atomically(folder / "distil_xlstm.json", about.dump(2) + "\n");
    std::string sample;
    if (tokenizer_data_) {
      dx::io::write_tokenizer(folder, *tokenizer_data_);
      sample = sample_text<T>(device_, *student_, dx::io::tokenizer(*tokenizer_data_), request_.prompt, 120,
                              request_.seed);
    }
    write_report(sample, tokens_seen);
  }

  void write_report(const std::string& sample, dx::index tokens_seen) const {
    report_data d;
    d.title = "Distil-xLSTM: " + teacher_name_;
    const auto& c = student_->config();
    d.subtitle = std::to_string(c.blocks) + " blocks of width " + std::to_string(c.width) + ", " +
                 grouped(c.trainable()) + " trainable parameters";
    d.records = read_metrics(request_.out / "metrics.jsonl");
    for (const auto& r : d.records) {
      if (!r.contains("held_out_ppl") || !r["held_out_ppl"].is_number()) continue;
      if (!d.held_out.student_before) d.held_out.student_before = r["held_out_ppl"].template get<double>();
      d.held_out.student_after = r["held_out_ppl"].template get<double>();
    }
    d.figures = {{"tokens seen", grouped(tokens_seen)}, {"steps", grouped(steps_in(d.records))}};
    d.prompt = request_.prompt, d.sample = sample;
    json run = dx::io::read_json_file(request_.out / "run.json");
    run.erase("student");
    const json flat = run.flatten();
    for (const auto& [pointer, value] : flat.items()) {
      std::string name = pointer.substr(1);
      std::replace(name.begin(), name.end(), '/', ' ');
      if (!value.is_null() && value != "")
        d.configuration.emplace_back(name,
                                     value.is_string() ? value.template get<std::string>() : value.dump());
    }
    program::write_report(request_.out / "report.html", d);
  }
  static long steps_in(const std::vector<record>& records) {
    long last = 0;
    for (const auto& r : records)
      if (r.contains("step")) last = std::max(last, r["step"].template get<long>());
    return last;
  }

  training_request request_;
  method method_;
  folder_lock lock_;
  D& device_;
  dx::io::token_file tokens_;
  std::optional<dx::io::token_file> held_out_;
  std::optional<teacher_type> teacher_;
  std::optional<dx::teacher_cache> cache_;
  std::optional<dx::io::tokenizer_data> tokenizer_data_;
  std::string teacher_name_;
  dx::index layers_ = 0, teacher_heads_ = 0;
  dx::frozen_matrix embedding_, head_;
  std::shared_ptr<const void> owner_;
  std::optional<dx::token_windows> windows_;
  std::optional<student_type> student_;
  std::unique_ptr<dx::teacher_source<T, D>> source_;
  bool line_open_ = false;
};

template <class T, class D>
int training_request::run(D& device) const {
  catch_signals();
  training_run<T, D> run(device, *this);
  return run.run();
}

}  // namespace program
