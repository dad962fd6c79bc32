#include <algorithm>
#include <cmath>

#include <distil_xlstm/comm/agree.hpp>
#include <distil_xlstm/distil/checkpoint.hpp>
#include <distil_xlstm/distil/linearised_rates.hpp>
#include <distil_xlstm/distil/needle.hpp>
#include <distil_xlstm/distil/perplexity.hpp>
#include <distil_xlstm/distil/score_divergence.hpp>
#include <distil_xlstm/distil/token_windows.hpp>
#include <distil_xlstm/io/atomic_file.hpp>
#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/model/load_linearised.hpp>

#include "choose_mixers.hpp"
#include "command.hpp"
#include "engine.hpp"
#include "folder_lock.hpp"
#include "linearise_options.hpp"
#include "linearise_tables.hpp"
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
    "distil linearise --teacher MODEL --tokens FILE --out FOLDER\n"
    "                 (--align-tokens N --distil-tokens N | --minutes M) [options]\n\n"
    "The teacher's own layers become the student: each attention gets a recurrent memory and a window in its\n"
    "place, and what a text needs no longer grows with it. The layers that recall may keep their attention:\n"
    "--keep-attention N finds N of them without training, --mixers says of each layer what it has.\n\n"
    "Stages: gates begin with how far back the teacher's heads look; all mixers at once learn what the "
    "teacher's\n"
    "attention gives for what it reads (--align-tokens); then all weights learn from the teacher's logits\n"
    "(--distil-tokens); then from longer windows (--long-tokens). --minutes gives a third of the time to the\n"
    "first, the rest to the second. FOLDER gets student/ (as the teacher's own folder, with the mixers in\n"
    "config.json), checkpoints/, metrics.jsonl, TensorBoard events, run.json, results.json and report.html.\n"
    "--tokens mixes texts and --objective is written as in `distil train`.\n";

constexpr const char* examples = R"(
  # Half an hour; five layers keep their attention
  distil linearise --teacher smollm2.gguf --tokens train.safetensors --held-out held.safetensors --minutes 30 \
      --keep-attention 5 --out run
  # Constant memory, stages by tokens, the last of longer windows, and windows without a memory beside it
  distil linearise --teacher smollm2.gguf --tokens train.safetensors --held-out held.safetensors --control \
      --align-tokens 5000000 --distil-tokens 20000000 --long-tokens 4000000 --needle 512,1024,2048 --out run
)";

/// A stage: what it reads and for how long.
struct stage {
  std::string name;
  dx::index tokens;    ///< 0: by time
  double minutes = 0;  ///< 0: by tokens
  const dx::token_windows* text;
  dx::training_options options;
};

/// What a model was found to be; what is not known is null.
json results_of(loaded_model& model, loaded_model* teacher, const std::optional<dx::io::token_file>& held_out,
                const linearise_options& o, const std::vector<std::vector<dx::continuation>>& needles) {
  json out = json::object();
  if (held_out)
    for (const dx::index w : o.window_lengths) {
      json& at = out["windows"][std::to_string(w)];
      if (teacher) {
        const auto s = model.score(*held_out, w, *teacher);
        at = {{"ppl", s.text.perplexity()}, {"kl", s.mean_kl()}};
      } else {
        at = {{"ppl", model.score(*held_out, w, false).perplexity()}};
      }
    }
  for (std::size_t i = 0; i < needles.size(); ++i) {
    const auto s = dx::score_needle(model.score(needles[i], [](dx::index, dx::index) {}));
    out["needle"][std::to_string(o.needle_lengths[i])] = {
        {"number", s.number}, {"digit", s.digit}, {"nll", s.nll}};
  }
  for (const dx::index tokens : {512, 8192, 65536})
    out["text_bytes"][std::to_string(tokens)] = model.text_bytes(tokens);
  return out;
}

/// One run: what it was asked, what it reads, what it writes.
class linearise_run {
 public:
  explicit linearise_run(const linearise_options& o)
      : o_(o),
        method_(method_of(o_)),
        lock_(o.out),
        engine_(make_engine(o.where)),
        tokens_(parse_token_mix(o.tokens), o.repeats, o.seed) {
    if (!o.held_out.empty()) held_out_.emplace(o.held_out);
    teacher_ = engine_->open_teacher(o.teacher);
    tokenizer_ = tokenizer_of(o.teacher);
    check_texts(tokens_, held_out_, teacher_->facts().vocabulary, tokenizer_);
    if (held_out_)
      for (const dx::index w : o_.window_lengths) require_held_out(*held_out_, w);
    windows_.emplace(tokens_.texts(method_.options.length), method_.options.length);
    if (o_.long_tokens > 0) long_windows_.emplace(tokens_.texts(o_.long_length), o_.long_length);
    make_needles();
    make_stages();
  }

  int run() {
    std::size_t at = stages_.size();
    std::optional<json> found;  // of the last stage that has begun
    const resumed_run resumed{o_.out, o_.resume};
    while (at-- > 0 && !found) found = resumed.find(store(at), where(at));
    at = found ? at + 1 : 0;
    if (teacher_sha256_.empty()) teacher_sha256_ = hash_of(o_.teacher);
    if (found) {
      chosen_.config = dx::read_linearised_config(found->at("student"), where(at));
      if (found->contains("kept")) chosen_.kept = found->at("kept");
      if (found->contains("before")) before_ = found->at("before");
    } else {
      chosen_ =
          choose_mixers(*engine_, teacher_->facts(), o_, choice_needles_,
                        held_out_ ? *held_out_ : tokens_.files().front(), held_out_window(method_.options));
    }
    student_ = teacher_->linearise(chosen_.config, o_.seed);
    for (std::optional<run_records> records; at < stages_.size(); ++at, found.reset())
      if (const int stopped = run_stage(at, found, records)) return stopped;
    finish();
    return 0;
  }

 private:
  /// The objective and optimiser: those of `train`, with other defaults.
  static method method_of(linearise_options& o) {
    if (o.batch == 0) o.batch = o.where.device == "cuda" ? 32 : 4;
    if (o.length == 0) o.length = 512;
    if (o.accumulate == 0) o.accumulate = 1;
    if (o.lr == 0) o.lr = 1e-4;
    if (o.lr_schedule.empty()) o.lr_schedule = "cosine";
    if (!o.objective && o.alpha.empty()) o.alpha = "1";
    method m = resolved(o);
    m.options.lr.floor = 0.02 * m.options.lr.peak;
    return m;
  }

  void make_needles() {
    if (o_.needle_lengths.empty() && o_.keep_attention <= 0) return;
    dx::require(tokenizer_.has_value(), o_.teacher.string(), ": no tokenizer, which needles are written with",
                o_.keep_attention > 0 ? "; --mixers names the layers that keep their attention"
                                      : "; --needle none leaves them out");
    const dx::io::tokenizer tokenizer(*tokenizer_);
    const auto text = dx::tokenize_needle(tokenizer);
    const auto filler = filler_of(tokens_.files().front(), tokenizer);
    const auto of = [&](dx::index length, dx::index cases) {
      return of_option("needle", [&] { return dx::needle_cases(text, filler, length, cases, o_.seed); });
    };
    for (const dx::index length : o_.needle_lengths) needles_.push_back(of(length, o_.cases));
    if (o_.keep_attention > 0) choice_needles_ = of(512, o_.keep_cases);
  }

  void make_stages() {
    const double whole = o_.minutes;
    dx::training_options align = method_.options, distil = method_.options;
    align.lr.peak = o_.align_lr, align.lr.floor = 0.02 * o_.align_lr;
    align.optimiser.weight_decay = 0;
    align.rate_of = dx::alignment_rates{&chosen_.config};
    distil.rate_of = dx::distillation_rates{o_.lr_new / distil.lr.peak};
    dx::training_options longer = distil;
    longer.length = o_.long_length;
    longer.batch = std::max<dx::index>(1, distil.batch * distil.length / o_.long_length);
    longer.lr.peak = o_.long_lr, longer.lr.floor = 0.02 * o_.long_lr, longer.rate_of = dx::distillation_rates{};
    if (o_.align_tokens > 0 || whole > 0)
      stages_.push_back({"align", o_.align_tokens, whole / 3, &*windows_, align});
    if (o_.distil_tokens > 0 || whole > 0)
      stages_.push_back({"distil", o_.distil_tokens, whole * 2 / 3, &*windows_, distil});
    if (long_windows_) stages_.push_back({"long", o_.long_tokens, 0, &*long_windows_, longer});
    for (const stage& s : stages_) require_shares(s.options);
  }

  dx::checkpoints store(std::size_t at) const { return dx::checkpoints(where(at)); }
  std::string where(std::size_t at) const { return (o_.out / "checkpoints" / stages_[at].name).string(); }

  /// What must be the same when the stage goes on.
  json identity(const stage& s, const training& t) const {
    const auto& size = s.options;
    json all = {
        {"stage", s.name},
        {"method", "linearise"},
        {"teacher", {{"name", valid_utf8(o_.teacher.filename().string())}, {"sha256", teacher_sha256_}}},
        {"asked",
         {{"mixers", o_.mixers},
          {"mixer", o_.mixer},
          {"keep_attention", o_.keep_attention},
          {"keep_kl", o_.keep_kl},
          {"window", o_.window},
          {"sinks", o_.sinks},
          {"align_tokens", o_.align_tokens},
          {"distil_tokens", o_.distil_tokens},
          {"long_tokens", o_.long_tokens},
          {"long_length", o_.long_length}}},
        {"before", before_},
        {"precision", o_.where.precision},
        {"seed", o_.seed},
        {"order", o_.order},
        {"batch", size.batch},
        {"length", size.length},
        {"accumulate", size.accumulate},
        {"student", t.config()},
        {"objective", objective_json(method_)},
        {"optimiser", optimiser_json({method_.objective, size, 0}, o_)},
        {"rates", {{"align_lr", o_.align_lr}, {"lr_new", o_.lr_new}, {"long_lr", o_.long_lr}}}};
    if (o_.keep_cases != linearise_options().keep_cases) all["asked"]["keep_cases"] = o_.keep_cases;
    if (!chosen_.kept.empty()) all["kept"] = chosen_.kept;
    tokens_.identify(all);
    if (held_out_) all["held_out_sha256"] = held_out_->data_sha256();
    return all;
  }

  /// `found`: the run whose checkpoint the stage goes on from; nothing where it begins.
  int run_stage(std::size_t at, const std::optional<json>& found, std::optional<run_records>& records) {
    const stage& s = stages_[at];
    const bool aligns = s.name == "align";
    training_ =
        aligns ? student_->align(*s.text, s.options) : student_->distil(*s.text, method_.objective, s.options);
    if (!records)
      warn_beyond_context(long_windows_ ? o_.long_length : method_.options.length, teacher_->facts().context,
                          o_.teacher);
    const auto checkpoints = store(at);
    const dx::index tokens_each = tokens_a_step(s.options);
    const dx::index asked =
        s.tokens > 0 ? whole_steps((s.name + "-tokens").c_str(), static_cast<double>(s.tokens),
                                   std::ceil(static_cast<double>(s.tokens) / static_cast<double>(tokens_each)))
                     : 0;
    const json identity = this->identity(s, *training_);
    require_one_run(identity, o_);
    // A later stage that has no checkpoint follows one that is done.
    const resumed_run here{o_.out, o_.resume && (at == 0 || found)};
    const bool fresh = !here.restore(*training_, checkpoints, where(at), found, identity, asked);
    if (fresh) {
      if (at == 0) student_->calibrate(*windows_);
      training_->total_steps(
          asked > 0 ? asked : whole_steps("minutes", o_.minutes, s.minutes * 60 / seconds_a_step(*training_)));
    }
    const dx::index total = training_->options().total_steps;
    training_->warmup(o_.warmup >= 0 ? o_.warmup : std::min<dx::index>(100, total / 10));
    const dx::index steps_before = before_.at("steps").get<dx::index>(),
                    tokens_before = before_.at("tokens").get<dx::index>();
    write_run(o_, engine_->threads(), *training_, identity);
    if (!records) records.emplace(o_.out, steps_before + training_->step_count(), fresh && at == 0);
    records->stage(s.name, steps_before, tokens_before);
    const step_loop steps{o_,
                          *training_,
                          *records,
                          checkpoints,
                          identity,
                          aligns ? nullptr : &method_.objective,
                          held_out_ ? &*held_out_ : nullptr,
                          s.name};
    if (fresh) {
      if (at == 0) steps.held_out_before(*teacher_, tokens_);
      steps.begin();
      if (at > 0 && leads()) fs::remove_all(where(at - 1));  // its weights are where this one begins
    }
    if (const int stopped = steps.or_diverged(steps, [&] { report({}, {}); })) return stopped;
    if (aligns) layer_errors_ = training_->layer_errors();
    before_ = {{"steps", steps_before + total}, {"tokens", tokens_before + total * tokens_each}};
    empty_ += training_->empty(), skipped_ += training_->skipped();
    reached_ = records->reached();
    identity_ = identity;
    return 0;
  }

  void finish() {
    const fs::path folder = o_.out / "student";
    const run_totals totals{before_.at("steps").get<dx::index>(), before_.at("tokens").get<dx::index>(), empty_,
                            skipped_};
    write_student(folder, *training_, tokenizer_, identity_, totals);
    const std::string sample = sample_of(*training_, tokenizer_, o_.prompt, 120, o_.seed);
    shape_ = training_->shape(), parameters_ = training_->trainable();
    // What is judged is what was written.
    training_.reset(), student_.reset(), teacher_.reset();
    if (o_.control) train_windows();
    if (!leads()) return;
    const json results = judge(folder);
    dx::io::write_text_atomically(o_.out / "results.json", results.dump(2) + "\n");
    report(sample, results);
    say_done(o_.out, totals, reached_);
  }

  json judge(const fs::path& folder) {
    json out = json::object();
    const auto teacher = engine_->load(o_.teacher);
    if (held_out_) teacher->keep(*held_out_);
    out["teacher"] = results_of(*teacher, nullptr, held_out_, o_, needles_);
    {
      dx::linearised_config windows = chosen_.config;
      for (auto& m : windows.mixers)
        if (m != dx::mixer_kind::attention) m = dx::mixer_kind::window;
      const auto control = engine_->load_windowed(o_.teacher, windows);
      out["untrained_windows"] = results_of(*control, teacher.get(), held_out_, o_, needles_);
    }
    out["student"] = results_of(*engine_->load(folder), teacher.get(), held_out_, o_, needles_);
    if (o_.control)
      out["trained_windows"] =
          results_of(*engine_->load(control_folder() / "student"), teacher.get(), held_out_, o_, needles_);
    out["kept"] = json::array();
    for (std::size_t i = 0; i < chosen_.config.mixers.size(); ++i)
      if (chosen_.config.mixers[i] == dx::mixer_kind::attention) out["kept"].push_back(i);
    return out;
  }
  /// The same run with windows alone, beside this one.
  void train_windows() {
    linearise_options o = o_;
    o.out = control_folder(), o.control = false, o.keep_attention = -1, o.mixer = "window", o.mixers.clear();
    for (const auto m : chosen_.config.mixers)
      o.mixers +=
          (o.mixers.empty() ? "" : ",") + std::string(m == dx::mixer_kind::attention ? "attention" : "window");
    linearise_run control(o);
    control.teacher_sha256_ = teacher_sha256_;
    dx::require(control.run() == 0, o.out.string(), ": the control did not end");
  }
  fs::path control_folder() const { return o_.out / "control"; }

  void report(const std::string& sample, const json& results) {
    report_texts texts{
        .title = "Linearised: " + valid_utf8(o_.teacher.filename().string()),
        .subtitle = (shape_.empty() ? training_->shape() : shape_) + ", " + mixers_text(chosen_.config) + ", " +
                    grouped(parameters_ > 0 ? parameters_ : training_->trainable()) + " parameters",
        .prompt = o_.prompt,
        .sample = sample,
        .tokens_seen = before_.at("tokens").get<dx::index>()};
    texts.tables =
        linearise_tables({chosen_.config, results, chosen_.kept, layer_errors_,
                          held_out_ ? o_.window_lengths : std::vector<dx::index>(), o_.needle_lengths});
    write_run_report(o_.out, texts);
  }
  linearise_options o_;
  method method_;
  folder_lock lock_;
  std::unique_ptr<engine> engine_;
  token_mix tokens_;
  std::optional<dx::io::token_file> held_out_;
  std::unique_ptr<teacher> teacher_;
  std::optional<dx::io::tokenizer_data> tokenizer_;
  std::optional<dx::token_windows> windows_, long_windows_;
  std::vector<std::vector<dx::continuation>> needles_;
  std::vector<dx::continuation> choice_needles_;
  std::vector<stage> stages_;
  mixer_choice chosen_;
  std::string teacher_sha256_;
  std::unique_ptr<linearised_student> student_;
  std::unique_ptr<training> training_;
  json before_ = {{"steps", 0}, {"tokens", 0}};  ///< of the stages that are done
  dx::index empty_ = 0, skipped_ = 0, parameters_ = 0;
  std::vector<double> layer_errors_;
  std::string reached_, shape_;
  json identity_;
};

}  // namespace

int linearise(const arguments& given) {
  linearise_options r;
  r.checkpoint_every = 200;
  po::options_description what("What");
  what.add_options()                                                              //
      ("teacher", po::value(&r.teacher)->value_name("MODEL"), "the transformer")  //
      ("tokens", po::value(&r.tokens)->value_name("FILE"),
       "the training text (`distil tokenize`), or texts mixed by weight: FILE:0.7,FILE:0.3")               //
      ("held-out", po::value(&r.held_out)->value_name("FILE"), "the evaluation text")                      //
      ("out", po::value(&r.out)->value_name("FOLDER"), "the folder to write to")                           //
      ("resume", po::bool_switch(&r.resume), "resume from the last checkpoint in --out, if there is one")  //
      ("align-tokens", po::value(&r.align_tokens), "tokens that the mixers are aligned over; 0: none")     //
      ("distil-tokens", po::value(&r.distil_tokens), "tokens that all of it is trained over; 0: none")     //
      ("minutes", po::value(&r.minutes), "or the time for both")                                           //
      ("long-tokens", po::value(&r.long_tokens), "tokens of longer windows afterwards")                    //
      ("long-length", po::value(&r.long_length)->default_value(r.long_length), "tokens in such a window");
  po::options_description student("Student");
  student.add_options()  //
      ("mixer", po::value(&r.mixer)->default_value(r.mixer),
       "in the place of attention: hybrid (memory and window), mlstm (memory), window")  //
      ("keep-attention", po::value(&r.keep_attention),
       "layers that keep their attention, found by what they recall; default: 0")  //
      ("keep-kl", po::value(&r.keep_kl),
       "what KL to the teacher on the text counts beside the needle's nll then")                        //
      ("keep-cases", po::value(&r.keep_cases), "cases of the needle then, of 512 tokens; default: 20")  //
      ("mixers", po::value(&r.mixers)->value_name("LIST"),
       "or by hand: one a layer (hybrid,attention,...), or the layers that keep attention (18,8,23)")  //
      ("window", po::value(&r.window)->default_value(r.window), "tokens of a window")                  //
      ("sinks", po::value(&r.sinks)->default_value(r.sinks),
       "first tokens of a text that stay in view beside it");
  po::options_description rates("Learning rates");
  rates.add_options()  //
      ("lr-new", po::value(&r.lr_new)->default_value(r.lr_new),
       "of what the teacher does not have; --lr (0.0001) is of the rest")  //
      ("align-lr", po::value(&r.align_lr)->default_value(r.align_lr),
       "of new matrices while mixers are aligned")  //
      ("long-lr", po::value(&r.long_lr)->default_value(r.long_lr),
       "over longer windows; five times that of what the teacher does not have");
  po::options_description judging("Judging");
  judging.add_options()  //
      ("needle", po::value(&r.needle)->default_value(r.needle),
       "lengths of contexts with a number to find; none")                       //
      ("cases", po::value(&r.cases)->default_value(r.cases), "cases a length")  //
      ("windows", po::value(&r.windows)->default_value(r.windows),
       "windows that the held-out text is scored in")  //
      ("control", po::bool_switch(&r.control), "train windows without a memory over the same text, too");
  po::options_description options;
  options.add(what).add(student).add(objective_options(r)).add(optimiser_options(r)).add(rates);
  options.add(judging).add(record_options(r)).add(machine_options(r.where));
  po::variables_map values;
  if (!parse(given, {usage, examples}, options, values)) return 0;
  require_effects("linearise", values);
  check(r.where);
  need(r.teacher, "teacher"), need(r.tokens, "tokens"), need(r.out, "out");
  check_prompt(r.prompt);
  check_numbers(values);
  if (values.count("minutes")) {
    if (!(r.minutes > 0 && std::isfinite(r.minutes)))
      throw usage_error("--minutes: must be above 0, and a number");
  } else if (!values.count("align-tokens") && !values.count("distil-tokens")) {
    throw usage_error("--align-tokens and --distil-tokens are needed, or --minutes");
  }
  for (const char* option : {"align-tokens", "distil-tokens", "long-tokens"})
    if (values.count(option) && values[option].as<dx::index>() < 0)
      throw usage_error(std::string("--") + option + ": must not be negative");
  if (!values.count("minutes") && r.align_tokens + r.distil_tokens == 0)
    throw usage_error("--align-tokens, --distil-tokens: nothing would be trained");
  if (r.sinks > r.window)
    throw usage_error("--sinks: " + std::to_string(r.sinks) + " are more than the window's " +
                      std::to_string(r.window));
  const auto mixer = of_option("mixer", [&] { return dx::mixer_named(r.mixer); });
  if (mixer == dx::mixer_kind::attention) throw usage_error("--mixer: attention is what is to be replaced");
  r.window_lengths = numbers_of("windows", r.windows, "lengths such as 512,2048");
  for (const dx::index w : r.window_lengths)
    if (w < 2) throw usage_error("--windows: a window of " + std::to_string(w) + " scores nothing");
  if (r.needle != "none")
    r.needle_lengths = numbers_of("needle", r.needle, "lengths such as 256,512, nor none");
  catch_signals();
  std::optional<linearise_run> run;
  dx::comm::on_every_rank(processes(), [&] { run.emplace(r); });
  return run->run();
}

}  // namespace program
