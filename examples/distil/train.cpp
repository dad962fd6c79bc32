#include <algorithm>
#include <cmath>

#include <distil_xlstm/comm/agree.hpp>
#include <distil_xlstm/distil/checkpoint.hpp>
#include <distil_xlstm/distil/teacher_cache.hpp>
#include <distil_xlstm/distil/token_windows.hpp>
#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/model/load_xlstm.hpp>

#include "command.hpp"
#include "engine.hpp"
#include "folder_lock.hpp"
#include "method.hpp"
#include "processes.hpp"
#include "records.hpp"
#include "signals.hpp"
#include "text.hpp"
#include "token_mix.hpp"
#include "training_steps.hpp"

namespace program {
namespace {

using dx::io::json;

constexpr const char* usage =
    "distil train --teacher MODEL --tokens FILE --out FOLDER (--steps N | --minutes M | --epochs E) [options]\n"
    "distil train --cache FOLDER  --tokens FILE --out FOLDER ...\n\n"
    "Trains a student: sLSTM and mLSTM blocks between the teacher's frozen embedding and head. FOLDER gets\n"
    "student/ (config.json, model.safetensors, tokenizer.json), checkpoints/, metrics.jsonl, TensorBoard "
    "events,\n"
    "run.json and report.html. An option with a schedule is given as FROM:TO, as in --alpha 0.8:0.5.\n\n"
    "--tokens FILE:0.7,FILE:0.3 mixes texts: of all windows that are read 0.7 are of the first, 0.3 of the\n"
    "second, evenly spread. Each text is read in an order of its own (--order), from its beginning again "
    "after\n"
    "its end. Weights count by their ratio; files without weights weigh the same. An epoch (--epochs) is as "
    "many\n"
    "steps as read as many windows as all texts have.\n\n"
    "--objective EXPRESSION, in place of --alpha, --beta, --temperature, --schedule and --alignment: a sum\n"
    "  --objective \"0.5*kl(T=2) + 0.4*ce + 0.1*frobenius(average)\"\n"
    "of up to four terms of\n"
    "  ce, kl(T), reverse_kl(T), jsd(beta, T), skew_kl(a, T), skew_reverse_kl(a, T), tvd(T),\n"
    "  top_k_kl(k, tail, T), where tail is one_class or ignored,\n"
    "and one of\n"
    "  frobenius(average), frobenius(ratio), frobenius(block_wise), frobenius(paper),\n"
    "  cosine(ratio), mse(average).\n"
    "Arguments come in this order or by name. A weight or a T may be FROM:TO or FROM:TO:SHAPE, as in\n"
    "  --objective \"0.8:0.2:cosine*skew_kl(a=0.1, T=2:1) + 0.2:0.8:cosine*ce\"\n";

constexpr const char* examples = R"(
  # Ten minutes beside a running teacher; where it was killed, --resume goes on
  distil train --teacher smollm2.gguf --tokens train.safetensors --held-out held.safetensors --minutes 10 --out run
  # From a cache, towards an objective of one's own
  distil train --cache cache --tokens train.safetensors --length 512 --steps 2000 --lr-schedule cosine \
      --objective "0.8:0.2:cosine*kl(T=2:1) + 0.2:0.8:cosine*ce" --out run
)";

/// The blocks that "0,2,4", "all" or "none" names, of `blocks`, in their order; that they are there is the
/// configuration's to check.
std::vector<dx::index> blocks_of(const std::string& text, dx::index blocks) {
  std::vector<dx::index> out;
  if (text == "none") return out;
  if (text == "all") {
    for (dx::index b = 0; b < blocks; ++b) out.push_back(b);
    return out;
  }
  out = numbers_of("slstm-at", text, "blocks such as 0,2,4, nor all or none");
  std::sort(out.begin(), out.end());
  return out;
}

/// One run: what it was asked, what it reads, what it writes.
class training_run {
 public:
  explicit training_run(const train_options& o)
      : o_(o),
        method_(resolved(o)),
        lock_(o.out),
        engine_(make_engine(o.where)),
        tokens_(parse_token_mix(o.tokens), o.repeats, o.seed) {
    require_shares(method_.options);
    if (!o.held_out.empty()) held_out_.emplace(o.held_out);
    open_teacher();
    windows_.emplace(tokens_.texts(method_.options.length), method_.options.length);
    if (held_out_) require_held_out(*held_out_, window());
    if (cache_)
      cache_->verify(tokens_.files().front().data_sha256(), windows_->count(), method_.options.length);
    make_training();
  }

  int run() {
    const fs::path folder = o_.out / "checkpoints";
    const dx::checkpoints store(folder);
    const json identity = this->identity();
    require_one_run(identity, o_);
    const resumed_run resumed{o_.out, o_.resume};
    const bool fresh = !resumed.restore(*training_, store, folder.string(),
                                        resumed.find(store, folder.string()), identity, asked_length());
    if (fresh) training_->total_steps(dx::comm::from_root(processes(), chosen_length()));
    const dx::index total = training_->options().total_steps;
    training_->warmup(
        o_.warmup >= 0 ? o_.warmup : static_cast<dx::index>(method_.warmup_ratio * static_cast<double>(total)));
    if (fresh || !fs::exists(o_.out / "run.json"))
      write_run(o_, engine_->threads(), *training_, identity,
                {{"cache", valid_utf8(o_.cache.string())},
                 {"init", valid_utf8(o_.init.string())},
                 {"architecture", o_.architecture}});

    if (!cache_) warn_beyond_context(windows_->length(), teacher_->facts().context, o_.teacher);
    run_records records(o_.out, training_->step_count(), fresh);
    const step_loop steps{
        o_, *training_, records, store, identity, &method_.objective, held_out_ ? &*held_out_ : nullptr};
    if (fresh) {
      steps.held_out_before(*teacher_, tokens_);
      steps.begin();
    }
    const auto whole = [&] {
      if (const int stopped = steps()) return stopped;
      finish(records, identity);
      return 0;
    };
    return steps.or_diverged(whole, [&] { report({}); });
  }

 private:
  void open_teacher() {
    if (o_.cache.empty()) {
      teacher_ = engine_->open_teacher(o_.teacher);
      teacher_name_ = valid_utf8(o_.teacher.filename().string());
      tokenizer_ = tokenizer_of(o_.teacher);
    } else {
      cache_.emplace(o_.cache);
      if (!o_.teacher.empty()) cache_->verify_teacher(hash_of(o_.teacher));
      teacher_ = engine_->open_cache(*cache_);
      teacher_name_ = cache_->identity().teacher;
      tokenizer_ = tokenizer_of(o_.cache);
    }
    check_texts(tokens_, held_out_, teacher_->facts().vocabulary, tokenizer_);
  }

  void make_training() {
    const auto& objective = method_.objective;
    if (o_.init.empty())
      training_ = teacher_->train(student_config(), o_.seed, *windows_, objective, method_.options);
    else
      training_ = teacher_->train(o_.init, *windows_, objective, method_.options);
  }

  dx::xlstm_config student_config() const {
    const auto facts = teacher_->facts();
    auto c = of_option("architecture", [&] {
      return dx::xlstm_architecture(o_.architecture, facts.vocabulary, facts.width, facts.layers, facts.heads,
                                    facts.tied);
    });
    dx::require(c.mlstm_heads > 0 || o_.heads > 0, "--architecture ", o_.architecture,
                ": needs the teacher's number of heads, which a cache does not hold: give --heads");
    if (o_.blocks > 0) {
      c.blocks = o_.blocks;
      c.slstm_at.clear();
      for (dx::index b = 0; b < c.blocks; b += 2) c.slstm_at.push_back(b);
    }
    if (o_.heads > 0) c.mlstm_heads = c.slstm_heads = o_.heads;
    if (!o_.slstm_at.empty()) c.slstm_at = blocks_of(o_.slstm_at, c.blocks);
    c.context_length = method_.options.length;
    return c;
  }

  /// What must be the same when a run goes on.
  json identity() const {
    const auto& size = method_.options;
    json all = {{"teacher",
                 {{"name", teacher_name_},
                  {"sha256", cache_ ? cache_->identity().teacher_sha256 : hash_of(o_.teacher)}}},
                {"method", o_.method},
                {"precision", o_.where.precision},
                {"seed", o_.seed},
                {"order", o_.order},
                {"batch", size.batch},
                {"length", size.length},
                {"accumulate", size.accumulate},
                {"student", training_->config().at("xlstm_cfg")},
                {"objective", objective_json(method_)},
                {"optimiser", optimiser_json(method_, o_)}};
    tokens_.identify(all);
    if (!o_.init.empty()) all["init_sha256"] = hash_of(o_.init);
    if (held_out_) all["held_out_sha256"] = held_out_->data_sha256();
    return all;
  }
  /// The steps that --steps or --epochs ask for; 0: --minutes decides.
  dx::index asked_length() const {
    if (o_.epochs > 0)
      return whole_steps("epochs", o_.epochs,
                         o_.epochs * static_cast<double>(training_->steps_per_epoch()) + 0.5);
    return o_.steps;
  }
  /// --steps, --epochs, or --minutes by the speed of a first step (which updates nothing).
  dx::index chosen_length() {
    if (const dx::index asked = asked_length(); asked > 0) return asked;
    return whole_steps("minutes", o_.minutes, o_.minutes * 60 / seconds_a_step(*training_));
  }
  dx::index window() const { return held_out_window(method_.options); }

  void finish(const run_records& records, const json& identity) {
    const run_totals totals{training_->step_count(), tokens_seen(), training_->empty(), training_->skipped()};
    write_student(o_.out / "student", *training_, tokenizer_, identity, totals);
    report(sample_of(*training_, tokenizer_, o_.prompt, 120, o_.seed));
    say_done(o_.out, totals, records.reached());
  }
  dx::index tokens_seen() const { return training_->step_count() * tokens_a_step(method_.options); }
  void report(const std::string& sample) {
    write_run_report(o_.out, {.title = "Distil-xLSTM: " + teacher_name_,
                              .subtitle = training_->shape() + ", " + grouped(training_->trainable()) +
                                          " trainable parameters",
                              .prompt = o_.prompt,
                              .sample = sample,
                              .tokens_seen = tokens_seen()});
  }
  train_options o_;
  method method_;
  folder_lock lock_;
  std::unique_ptr<engine> engine_;
  token_mix tokens_;
  std::optional<dx::io::token_file> held_out_;
  std::optional<dx::teacher_cache> cache_;
  std::unique_ptr<teacher> teacher_;
  std::string teacher_name_;
  std::optional<dx::io::tokenizer_data> tokenizer_;
  std::optional<dx::token_windows> windows_;
  std::unique_ptr<training> training_;
};

}  // namespace

int train(const arguments& given) {
  train_options r;
  po::options_description what("What");
  what.add_options()  //
      ("teacher", po::value(&r.teacher)->value_name("MODEL"),
       "the frozen transformer, run beside the student")                                                    //
      ("cache", po::value(&r.cache)->value_name("FOLDER"), "or its cached hidden states (`distil cache`)")  //
      ("tokens", po::value(&r.tokens)->value_name("FILE"),
       "the training text (`distil tokenize`), or texts mixed by weight: FILE:0.7,FILE:0.3")               //
      ("held-out", po::value(&r.held_out)->value_name("FILE"), "the evaluation text")                      //
      ("out", po::value(&r.out)->value_name("FOLDER"), "the folder to write to")                           //
      ("resume", po::bool_switch(&r.resume), "resume from the last checkpoint in --out, if there is one")  //
      ("steps", po::value(&r.steps), "number of optimiser steps")                                          //
      ("minutes", po::value(&r.minutes), "or as many steps as fit, by the speed of the first ones")        //
      ("epochs", po::value(&r.epochs), "or passes through the text");
  po::options_description student("Student");
  student.add_options()  //
      ("architecture", po::value(&r.architecture)->default_value(r.architecture),
       "default, paper, heuristic")                                                            //
      ("blocks", po::value(&r.blocks), "number of blocks")                                     //
      ("heads", po::value(&r.heads), "number of heads, of both kinds of block")                //
      ("slstm-at", po::value(&r.slstm_at), "the blocks that are sLSTM: 0,2,4 or all or none")  //
      ("init", po::value(&r.init)->value_name("STUDENT"), "start from a student's weights and shape");
  po::options_description method("Method");
  method.add_options()  //
      ("method", po::value(&r.method)->default_value(r.method),
       "default; paper (arXiv 2503.18565 as printed); code (as its authors' code does it)");
  po::options_description options;
  options.add(what)
      .add(student)
      .add(method)
      .add(objective_options(r))
      .add(optimiser_options(r))
      .add(record_options(r));
  options.add(machine_options(r.where));
  po::variables_map values;
  if (!parse(given, {usage, examples}, options, values)) return 0;
  require_effects("train", values);
  check(r.where);

  if (r.teacher.empty() && r.cache.empty()) throw usage_error("--teacher or --cache is missing");
  need(r.tokens, "tokens"), need(r.out, "out");
  if (const auto files = parse_token_mix(r.tokens); files.size() > 1 && !r.cache.empty())
    throw usage_error("--tokens: names " + std::to_string(files.size()) +
                      " files, and a --cache is of one text");
  if (r.repeats > 0 && !r.cache.empty())
    throw usage_error("--repeats: adds a text, and a --cache is of one text");
  check_prompt(r.prompt);
  int budgets = 0;
  for (const char* option : {"steps", "minutes", "epochs"}) {
    if (!values.count(option)) continue;
    ++budgets;
    const bool whole = option == std::string("steps");
    const double asked = whole ? static_cast<double>(r.steps) : values[option].as<double>();
    if (!(asked > 0 && std::isfinite(asked)) || (whole && r.steps > most_steps))
      throw usage_error(std::string("--") + option + ": " + short_number(asked) + " is not possible: above 0" +
                        (whole ? ", at most " + grouped(most_steps) : ", and a number"));
  }
  if (budgets != 1) throw usage_error("one of --steps, --minutes, --epochs is needed");
  if (values.count("slstm-at"))
    blocks_of(r.slstm_at, most_steps);  // its form; the number of blocks is not known yet
  check_numbers(values);
  catch_signals();
  std::optional<training_run> run;
  dx::comm::on_every_rank(processes(), [&] { run.emplace(r); });
  return run->run();
}

}  // namespace program
