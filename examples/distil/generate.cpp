#include "command.hpp"
#include "options.hpp"

namespace program {
namespace {

constexpr const char* usage =
    "distil generate --model MODEL (--prompt TEXT | --prompts FILE) [options]\n\n"
    "Continues a text on stdout, as it comes. Without --temperature, --top-k or --top-p it takes the likeliest "
    "token\n"
    "each time. A student's memory does not grow with the text.\n\n"
    "With --prompts it continues many texts, a student --batch of them at once, one joining as another ends, "
    "and\n"
    "writes a line of JSON for each, in the file's order: {\"line\": 1, \"text\": \"...\", \"tokens\": 100}. "
    "The "
    "text of\n"
    "line n is chosen with the seed --seed + n - 1, whatever is beside it.\n";

}  // namespace

int generate(const arguments& given) {
  generate_request r;
  common_options common;
  po::options_description options("Options");
  options.add_options()                                                                                    //
      ("model", po::value(&r.model)->value_name("MODEL"), "a teacher or a student")                        //
      ("prompt", po::value(&r.prompt)->value_name("TEXT"), "what to continue; special tokens are parsed")  //
      ("prompts", po::value(&r.prompts)->value_name("FILE"), "a prompt a line; -: stdin")                  //
      ("batch", po::value(&r.batch)->default_value(r.batch), "texts of --prompts at once")                 //
      ("chat", po::bool_switch(&r.chat), "the prompt is a question: put it in the model's chat template")  //
      ("tokens", po::value(&r.tokens)->default_value(r.tokens), "how many at most")                        //
      ("temperature", po::value(&r.how.temperature), "of the choice; 0: the likeliest")                    //
      ("top-k", po::value(&r.how.top_k), "choose among the k likeliest")                                   //
      ("top-p", po::value(&r.how.top_p), "choose among the likeliest that together reach p")               //
      ("seed", po::value(&r.how.seed)->default_value(0), "of the choice");
  options.add(common.description());
  po::variables_map values;
  if (!parse(given, usage, options, values)) return 0;
  common.check();
  need(r.model, "model");
  if (!values.count("prompt") && r.prompts.empty()) throw usage_error("--prompt is missing");
  if (values.count("prompt") && !r.prompts.empty())
    throw usage_error("--prompt and --prompts exclude each other");
  if (r.batch < 1) throw usage_error("--batch: must be 1 or more");
  if (r.tokens < 0) throw usage_error("--tokens: must not be negative");
  if (!values.count("temperature") && !values.count("top-k") && !values.count("top-p")) r.how.temperature = 0;
  try {
    dx::sampler check(r.how);
  } catch (const dx::error& e) {
    throw usage_error(e.what());
  }
  return run_on(common, r);
}

}  // namespace program
