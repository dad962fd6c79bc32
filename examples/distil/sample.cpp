#include <algorithm>
#include <chrono>
#include <iostream>
#include <map>
#include <optional>
#include <span>
#include <utility>

#include <distil_xlstm/comm/agree.hpp>
#include <distil_xlstm/core/rng.hpp>
#include <distil_xlstm/device/cpu/machine.hpp>
#include <distil_xlstm/io/atomic_file.hpp>
#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/io/sha256.hpp>
#include <distil_xlstm/io/token_file.hpp>
#include <distil_xlstm/io/write_token_file.hpp>
#include <distil_xlstm/model/sampler.hpp>

#include "command.hpp"
#include "engine.hpp"
#include "folder_lock.hpp"
#include "one_job.hpp"
#include "processes.hpp"
#include "signals.hpp"
#include "text.hpp"

namespace program {
namespace {

using dx::io::json;

constexpr const char* usage =
    R"(distil sample --model MODEL --tokens N --out FILE [--prompts FILE] [options]

Writes a token file of the model's own text, for `train`, `cache` and `evaluate`, to those who have no text.

Each text begins with the token that begins a document, as `tokenize` writes it, with --prompts followed by a line of
that file (text 0 by the first, and so on, cyclically; special tokens are parsed). It ends with an end-of-text token,
which belongs to it, or at --length tokens, that beginning included; and before an id that the tokenizer does not have,
where the model has more. Texts are documents of the file, until there are N tokens; the last text is kept whole, so
that there may be up to --length - 1 more.

Text i is drawn with the seed --seed + i, and texts are written in that order: the file depends on model, seed and
options, not on which text was finished first, nor on the CPU on --batch and --threads. (On a GPU products of another
--batch may round otherwise.) Several processes (mpirun -n N distil sample ...) share the texts, and write the same
file.

While it is written, the texts that are finished lie in FILE.part. Killed at any time, the same command goes on from
there; SIGINT and SIGTERM write what is finished and leave with status 130 and 143.
)";

constexpr const char* examples = R"(
  # Ten million tokens of the teacher's own text, in documents of up to 512
  distil sample --model smollm2.gguf --tokens 10000000 --length 512 --out own.safetensors
  # A reply to each prompt of a file, in turn
  distil sample --model smollm2.gguf --tokens 1000000 --prompts questions.txt --temperature 0.8 --out replies.safetensors
)";

/// Seconds of a steady clock.
double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct sample_options {
  fs::path model, out, prompts;
  dx::index tokens = 0, batch = 0, length = 512;
  dx::sampling how;
  machine where;
};

/// Documents one after another, as a token file has them.
struct document_list {
  std::vector<std::int32_t> ids;
  std::vector<std::int64_t> starts;

  dx::index tokens() const { return std::ssize(ids); }
  std::size_t count() const { return starts.size(); }
  void add(std::span<const std::int32_t> document) {
    starts.push_back(tokens());
    ids.insert(ids.end(), document.begin(), document.end());
  }
};

/// The folder beside the file that is written: what is finished, a token file every few seconds, and of which options
/// it is. Each is whole or not there.
class finished_parts {
 public:
  /// Throws `error` where another run is writing there, or one of other options has left texts there.
  finished_parts(const fs::path& out, const json& options, dx::index vocabulary, std::string tokenizer)
      : folder_(out.string() + ".part"),
        lock_(folder_),
        vocabulary_(vocabulary),
        tokenizer_(std::move(tokenizer)) {
    const fs::path manifest = folder_ / "options.json";
    if (!names().empty()) {
      const json before = dx::io::read_json_file(manifest);
      dx::require(before.is_object(), manifest.string(), ": is no object");
      if (const auto key = difference(before, options))
        dx::fail(folder_.string(), ": the run there has another ", *key, ": ", value_text(before, *key),
                 ", this one asks for ", value_text(options, *key),
                 "; go on with its options, or remove that folder");
    }
    dx::io::write_text_atomically(manifest, options.dump(2) + "\n");
  }

  /// Adds what is there, as far as it is whole and nothing is missing between; what comes after is removed.
  void read(document_list& texts) {
    bool good = true;
    for (const auto& [first, path] : names()) {
      good = good && first == texts.count() && add(path, texts);
      if (!good) {
        std::cerr << "distil: warning: " << path.string() << ": is drawn again\n";
        fs::remove(path);
      }
    }
    written_ = texts.count();
  }

  /// Writes the texts that are not written yet.
  void write(const document_list& texts) {
    if (written_ == texts.count()) return;
    const auto first = texts.starts[written_];
    std::vector<std::int64_t> starts(texts.starts.begin() + static_cast<std::ptrdiff_t>(written_),
                                     texts.starts.end());
    for (auto& s : starts) s -= first;
    char name[48];
    std::snprintf(name, sizeof name, "texts-%012zu.safetensors", written_);
    dx::io::write_token_file(folder_ / name, std::span(texts.ids).subspan(static_cast<std::size_t>(first)),
                             starts, vocabulary_, tokenizer_);
    written_ = texts.count();
  }

  void remove() { fs::remove_all(folder_); }

 private:
  struct part {
    std::size_t first;  ///< the number of its first text
    fs::path path;
  };
  /// The parts that are there, in their order.
  std::vector<part> names() const {
    std::vector<part> out;
    for (const auto& f : fs::directory_iterator(folder_)) {
      std::size_t first = 0;
      int end = 0;
      const std::string name = f.path().filename().string();
      if (std::sscanf(name.c_str(), "texts-%12zu.safetensors%n", &first, &end) == 1 &&
          static_cast<std::size_t>(end) == name.size())
        out.push_back({first, f.path()});
    }
    std::sort(out.begin(), out.end(), [](const part& a, const part& b) { return a.first < b.first; });
    return out;
  }
  bool add(const fs::path& path, document_list& texts) const {
    try {
      const dx::io::token_file file(path);
      dx::require(file.vocab_size() == vocabulary_ && file.tokenizer_sha256() == tokenizer_, path.string(),
                  ": made with another tokenizer");
      const auto before = texts.tokens();
      for (const auto start : file.documents()) texts.starts.push_back(before + start);
      texts.ids.resize(static_cast<std::size_t>(before + file.size()));
      file.copy(0, file.size(), texts.ids.data() + before);
      return true;
    } catch (const dx::error& e) {
      std::cerr << "distil: warning: " << e.what() << "\n";
      return false;
    }
  }

  fs::path folder_;
  folder_lock lock_;
  dx::index vocabulary_;
  std::string tokenizer_;
  std::size_t written_ = 0;
};

/// One run: draws texts side by side until there are enough. Of several processes each draws its share, and rank 0
/// has the file.
class sample_run {
 public:
  explicit sample_run(const sample_options& o)
      : o_(o),
        engine_(make_engine(o.where)),
        model_(engine_->load(o.model)),
        tokenizer_(need_tokenizer(o.model, model_->vocabulary())) {
    if (leads()) prompts_ = read_prompts(o, tokenizer_);  // which may be its stdin
    warn_beyond_context(o.length, model_->context(), o.model);
  }

  /// All processes call it.
  int run() {
    auto& all = processes();
    if (all.size() > 1) json::parse(dx::comm::from_root(all, json(prompts_).dump())).get_to(prompts_);
    const json what = options();
    require_one_job(what);
    dx::comm::on_root(all, [&] {
      parts_.emplace(o_.out, what, tokenizer_.vocab_size(), tokenizer_.fingerprint());
      parts_->read(texts_);
    });
    first_ = dx::comm::from_root(all, texts_.count());
    started_ = saved_ = now();
    try {
      if (!dx::comm::from_root(all, enough()))
        while (true) draw();
    } catch (const finished&) {
    } catch (const dx::numeric_error& e) {
      end_progress();
      if (parts_) parts_->write(texts_);
      dx::fail(o_.model.string(), ": ", e.what());
    }
    end_progress();
    dx::comm::on_root(all, [&] { keep_all(); });
    return dx::comm::from_root(all, enough()) ? 0 : 128 + signal_;
  }

 private:
  /// Thrown out of the model's writing when there are texts enough, or a signal has come.
  struct finished {};
  struct numbered_text {
    std::size_t number;
    std::vector<std::int32_t> ids;
  };

  static std::vector<std::vector<std::int32_t>> read_prompts(const sample_options& o,
                                                             const dx::io::tokenizer& t) {
    const std::int32_t begin = t.document_start();
    std::vector<std::vector<std::int32_t>> out;
    const auto add = [&](std::vector<std::int32_t> ids, const std::string& name) {
      if (begin >= 0 && (ids.empty() || ids.front() != begin)) ids.insert(ids.begin(), begin);
      dx::require(!ids.empty(), name,
                  o.prompts.empty()
                      ? ": has no token that begins a document, and none that ends one: give --prompts"
                      : ": is empty, and the model has no token that begins a document");
      dx::require(std::ssize(ids) < o.length, name, ": is ", ids.size(), " tokens long, --length ", o.length,
                  " leaves nothing to draw");
      out.push_back(std::move(ids));
    };
    if (o.prompts.empty())
      add({}, o.model.string());
    else
      for_each_prompt(o.prompts, [&](const std::string& text, const std::string& name) {
        add(text.empty() ? std::vector<std::int32_t>() : encode_text(t, text, name, true), name);
      });
    return out;
  }

  /// What the file depends on.
  json options() const {
    dx::io::sha256 prompts;
    for (const auto& p : prompts_) {
      const auto size = static_cast<std::uint64_t>(p.size());
      prompts.update(&size, sizeof size).update(p.data(), p.size() * sizeof p[0]);
    }
    json all = {{"model_sha256", hash_of(o_.model)},
                {"tokenizer_sha256", tokenizer_.fingerprint()},
                {"prompts_sha256", prompts.hex()},
                {"tokens", o_.tokens},
                {"length", o_.length},
                {"temperature", o_.how.temperature},
                {"top_k", o_.how.top_k},
                {"top_p", o_.how.top_p},
                {"seed", o_.how.seed},
                {"device", o_.where.device},
                {"precision", o_.where.precision}};
    if (o_.where.device != "cpu") all["batch"] = o_.batch;
    return all;
  }

  bool enough() const { return texts_.tokens() >= o_.tokens; }
  /// "1,003 tokens in 12 texts"
  std::string amount() const {
    return grouped(texts_.tokens()) + " tokens in " + grouped(static_cast<dx::index>(texts_.count())) +
           (texts_.count() == 1 ? " text" : " texts");
  }

  /// Texts that an end-of-text token ends.
  dx::index ended() const {
    dx::index n = 0;
    for (std::size_t i = 0; i < texts_.count(); ++i) {
      const auto end = i + 1 < texts_.count() ? texts_.starts[i + 1] : texts_.tokens();
      n += end - texts_.starts[i] > 1 &&
           tokenizer_.is_end_of_text(texts_.ids[static_cast<std::size_t>(end - 1)]);
    }
    return n;
  }

  /// The number of the next text that this rank draws. Of size() texts in turn each rank has one, which one by
  /// chance, so that prompts that come again and again are everybody's.
  std::size_t next_number() {
    const auto size = static_cast<std::size_t>(processes().size()),
               rank = static_cast<std::size_t>(processes().rank());
    const std::size_t turn = turn_++;
    return first_ + turn * size + (rank + dx::rng(turn).below(size)) % size;
  }

  /// Draws this rank's next texts. So many are asked for at once that the batch seldom runs empty, and as many
  /// whatever is left to do: a step has the same shape in every run.
  void draw() {
    constexpr std::size_t most_ids = 1u << 22;
    std::size_t shortest = prompts_[0].size(), longest = 0;
    for (const auto& p : prompts_)
      shortest = std::min(shortest, p.size()), longest = std::max(longest, p.size());
    const std::size_t least = std::max(16 * static_cast<std::size_t>(o_.batch), prompts_.size());
    std::vector<std::size_t> numbers(std::max(least, std::min<std::size_t>(65536, most_ids / longest)));
    std::vector<std::vector<std::int32_t>> prompts;
    for (std::size_t& n : numbers) prompts.push_back(prompt_of(n = next_number()));
    model_->write(
        prompts, o_.length - static_cast<dx::index>(shortest), o_.batch, o_.how,
        [&](std::size_t i, std::int32_t id) { return take(numbers[i], id); }, numbers);
  }
  const std::vector<std::int32_t>& prompt_of(std::size_t text) const {
    return prompts_[text % prompts_.size()];
  }

  /// A token more of a text; whether it goes on.
  bool take(std::size_t number, std::int32_t id) {
    const auto at = growing_.try_emplace(number, prompt_of(number)).first;
    auto& ids = at->second;
    const bool known = id < tokenizer_.vocab_size();
    if (known) ids.push_back(id);
    const bool over = !known || tokenizer_.is_end_of_text(id) || std::ssize(ids) >= o_.length;
    if (over) over_.push_back({number, std::move(ids)}), growing_.erase(at);
    // Ranks meet after as many tokens, which take them about as long.
    if (++taken_ >= (processes().size() > 1 ? 16 * o_.batch : 1)) meet();
    return !over;
  }

  /// What ranks have finished since they met comes to rank 0. Throws `finished` on all of them where those are texts
  /// enough, and where one of them has had a signal.
  void meet() {
    auto& all = processes();
    taken_ = 0;
    if (all.size() > 1) gather_finished();
    dx::comm::on_root(all, [&] {
      for (auto& text : over_) ahead_.emplace(text.number, std::move(text.ids));
      while (!ahead_.empty() && ahead_.begin()->first == texts_.count() && !enough()) {
        texts_.add(ahead_.begin()->second);
        ahead_.erase(ahead_.begin());
      }
      if (!over_.empty()) keep();
    });
    over_.clear();
    signal_ = static_cast<int>(dx::comm::largest(all, caught_signal));
    if (signal_ != 0 || dx::comm::from_root(all, enough())) throw finished{};
  }
  /// From now on `over_` has what all ranks had there.
  void gather_finished() {
    auto& all = processes();
    std::vector<std::int64_t> mine;  // of each text: number, tokens, ids
    for (const auto& text : over_) {
      mine.push_back(static_cast<std::int64_t>(text.number)), mine.push_back(std::ssize(text.ids));
      mine.insert(mine.end(), text.ids.begin(), text.ids.end());
    }
    constexpr auto each = static_cast<dx::index>(sizeof mine[0]);
    std::vector<dx::index> starts{0};
    for (const auto n : dx::comm::of_all(all, std::ssize(mine))) starts.push_back(starts.back() + n * each);
    std::vector<std::int64_t> whole(static_cast<std::size_t>(starts.back() / each));
    std::copy(mine.begin(), mine.end(), whole.begin() + starts[static_cast<std::size_t>(all.rank())] / each);
    all.all_gather({}, whole.data(), starts);
    over_.clear();
    for (auto at = whole.begin(); at != whole.end();) {
      const auto number = static_cast<std::size_t>(*at++);
      const auto end = at + 1 + *at;
      over_.push_back({number, {at + 1, end}});
      at = end;
    }
  }

  /// Now and then: a part to the disk, a line to the terminal. The more is done, the seldomer: a kill loses a
  /// hundredth of it.
  void keep() {
    const double t = now();
    if (t - saved_ >= std::clamp((t - started_) / 100, 0.2, 60.0)) {
      parts_->write(texts_);
      saved_ = t;
    }
    if (!on_terminal() || t - shown_ < 0.2) return;
    if (shown_ == 0) tokens_at_first_ = texts_.tokens(), first_shown_ = t;
    shown_ = t;
    std::cerr << "\r\033[K" << grouped(texts_.tokens()) << "/" << grouped(o_.tokens) << " tokens in "
              << grouped(static_cast<dx::index>(texts_.count())) << " texts";
    const double rate = static_cast<double>(texts_.tokens() - tokens_at_first_) / (t - first_shown_);
    if (t > first_shown_ && rate > 0)
      std::cerr << "  " << short_number(rate) << " tok/s  left "
                << clock_text(static_cast<double>(o_.tokens - texts_.tokens()) / rate);
    std::cerr << std::flush;
  }
  void end_progress() {
    if (shown_ > 0) std::cerr << "\n";
    shown_ = 0;
  }

  /// Rank 0's end: the file, or where a signal came first what there is of it.
  void keep_all() {
    if (!enough()) {
      parts_->write(texts_);
      std::cerr << "distil: stopped by a signal; " << o_.out.string() << ".part has " << amount()
                << ": the same command goes on\n";
      return;
    }
    dx::io::write_token_file(o_.out, texts_.ids, texts_.starts, tokenizer_.vocab_size(),
                             tokenizer_.fingerprint());
    parts_->remove();
    std::cerr << o_.out.string() << ": " << amount() << ", " << grouped(ended())
              << " of them ended by an end-of-text token\n";
  }

  sample_options o_;
  std::unique_ptr<engine> engine_;
  std::unique_ptr<loaded_model> model_;
  dx::io::tokenizer tokenizer_;
  std::vector<std::vector<std::int32_t>> prompts_;
  std::size_t first_ = 0;                                     ///< number of the first text that this run draws
  std::size_t turn_ = 0;                                      ///< texts that this rank has begun
  std::map<std::size_t, std::vector<std::int32_t>> growing_;  ///< this rank's, by number
  std::vector<numbered_text> over_;                           ///< finished since the ranks met
  dx::index taken_ = 0;                                       ///< tokens drawn since then
  int signal_ = 0;
  // Of rank 0.
  std::optional<finished_parts> parts_;
  document_list texts_;
  std::map<std::size_t, std::vector<std::int32_t>> ahead_;  ///< finished texts that one before is missing of
  double started_ = 0, saved_ = 0, shown_ = 0, first_shown_ = 0;
  dx::index tokens_at_first_ = 0;
};

/// Texts at once, of which the file does not depend within these: on the CPU products of fewer rows, and of more, sum
/// in another order.
constexpr dx::index least_on_cpu = dx::device::cpu_base::few_rows + 1, most_on_cpu = 512;

}  // namespace

int sample(const arguments& given) {
  sample_options o;
  po::options_description options("Options");
  options.add_options()                                                                        //
      ("model", po::value(&o.model)->value_name("MODEL"), "a teacher or a student")            //
      ("tokens", po::value(&o.tokens)->value_name("N"), "tokens to write, at least")           //
      ("out", po::value(&o.out)->value_name("FILE"), "the token file to write (safetensors)")  //
      ("prompts", po::value(&o.prompts)->value_name("FILE"),
       "what texts begin with, a prompt a line; -: stdin")                                            //
      ("batch", po::value(&o.batch), "texts at once; default: 16, on a GPU 512")                      //
      ("length", po::value(&o.length)->default_value(o.length), "tokens of a text, at most")          //
      ("temperature", po::value(&o.how.temperature)->default_value(1), "sampling temperature")        //
      ("top-k", po::value(&o.how.top_k), "sample from the k most likely tokens")                      //
      ("top-p", po::value(&o.how.top_p), "sample from the most likely tokens that together reach p")  //
      ("seed", po::value(&o.how.seed)->default_value(0), "random seed");
  options.add(machine_options(o.where));
  po::variables_map values;
  if (!parse(given, {usage, examples}, options, values)) return 0;
  require_effects("sample", values);
  check(o.where);
  need(o.model, "model"), need(o.out, "out");
  if (!values.count("tokens")) throw usage_error("--tokens is missing");
  if (o.tokens < 1) throw usage_error("--tokens: must be 1 or more");
  if (o.length < 2)
    throw usage_error("--length: must be 2 or more: a token that begins a text, and one to draw");
  if (o.length > 1 << 24) throw usage_error("--length: " + std::to_string(o.length) + " is not possible");
  const bool cpu = o.where.device == "cpu";
  const dx::index least = cpu ? least_on_cpu : 1, most = cpu ? most_on_cpu : 65536;
  if (!values.count("batch")) o.batch = cpu ? 16 : 512;
  if (o.batch < least || o.batch > most)
    throw usage_error("--batch: " + std::to_string(o.batch) + " is not possible on the " + o.where.device +
                      ": from " + std::to_string(least) + " to " + std::to_string(most));
  try {
    if (dx::sampler(o.how).how().greedy() && o.prompts.empty())
      throw usage_error("without chance every text is the same: give --prompts, or a --temperature above 0");
  } catch (const dx::error& e) {
    throw usage_error(e.what());
  }
  dx::require(!fs::exists(o.out) || fs::is_regular_file(o.out), o.out.string(), ": is there and no file");
  catch_signals();
  std::optional<sample_run> run;
  dx::comm::on_every_rank(processes(), [&] { run.emplace(o); });
  return run->run();
}

}  // namespace program
