#include <distil_xlstm/model/generate.hpp>

#include <distil_xlstm/io/chat_template.hpp>

#include "command.hpp"
#include "models.hpp"

namespace program {
namespace {

constexpr const char* usage =
    "distil generate --model MODEL --prompt TEXT [options]\n\n"
    "Continues a text on stdout, as it comes. Without --temperature, --top-k or --top-p it takes the likeliest "
    "token\n"
    "each time. A student's memory does not grow with the text.\n";

struct request {
  fs::path model;
  std::string prompt;
  dx::index tokens = 100;
  dx::sampling how;
  bool chat = false;
};

std::vector<std::int32_t> prompt_ids(const request& r, const dx::io::tokenizer& t) {
  if (r.chat) {
    const dx::io::chat_message asked[] = {{"user", r.prompt}};
    return encode_text(t, dx::io::apply_chat_template(t.data(), asked, true), "--prompt", true);
  }
  std::vector<std::int32_t> ids;
  if (!r.prompt.empty()) ids = encode_text(t, r.prompt, "--prompt", true);
  if (t.data().add_bos && (ids.empty() || ids.front() != t.data().bos)) ids.insert(ids.begin(), t.data().bos);
  if (ids.empty() && t.document_start() >= 0) ids.push_back(t.document_start());
  dx::require(!ids.empty(), "--prompt: the text is empty, and the model has no token that begins one");
  return ids;
}

template <class T>
int run(const request& r, const common_options& common) {
  dx::device::cpu device(common.threads);
  common.apply(device);
  const auto model = dx::language_model<T, dx::device::cpu>::load(device, r.model);
  const auto tokenizer = need_tokenizer(r.model);
  require_same_vocabulary(tokenizer, model.vocabulary(), r.model);
  const auto ids = prompt_ids(r, tokenizer);
  typename dx::language_model<T, dx::device::cpu>::session session(device, model, std::ssize(ids) + r.tokens);
  dx::sampler choose(r.how);
  dx::io::stream_decoder decoder(tokenizer, true);
  try {
    dx::generate(device, session, ids, r.tokens, choose, [&](std::int32_t id) {
      if (tokenizer.is_end_of_text(id)) return false;
      std::cout << decoder.put(id) << std::flush;
      return std::cout.good();
    });
  } catch (const dx::numeric_error& e) {
    dx::fail(r.model.string(), ": ", e.what());
  }
  std::cout << decoder.finish() << "\n";
  return 0;
}

}  // namespace

int generate(const arguments& given) {
  request r;
  common_options common;
  po::options_description options("Options");
  options.add_options()                                                                                    //
      ("model", po::value(&r.model)->value_name("MODEL"), "a teacher or a student")                        //
      ("prompt", po::value(&r.prompt)->value_name("TEXT"), "what to continue; special tokens are parsed")  //
      ("chat", po::bool_switch(&r.chat), "the prompt is a question: put it in the model's chat template")  //
      ("tokens", po::value(&r.tokens)->default_value(r.tokens), "how many at most")                        //
      ("temperature", po::value(&r.how.temperature), "of the choice; 0: the likeliest")                    //
      ("top-k", po::value(&r.how.top_k), "choose among the k likeliest")                                   //
      ("top-p", po::value(&r.how.top_p), "choose among the likeliest that together reach p")               //
      ("seed", po::value(&r.how.seed)->default_value(0), "of the choice");
  options.add(common.description("fp32, bf16 (products of bf16, sums of fp32), fp64"));
  po::variables_map values;
  if (!parse(given, usage, options, values)) return 0;
  common.check();
  need(r.model, "model");
  if (!values.count("prompt")) throw usage_error("--prompt is missing");
  if (r.tokens < 0) throw usage_error("--tokens: must not be negative");
  if (!values.count("temperature") && !values.count("top-k") && !values.count("top-p")) r.how.temperature = 0;
  try {
    dx::sampler check(r.how);
  } catch (const dx::error& e) {
    throw usage_error(e.what());
  }
  return common.with_scalar([&](auto scalar) { return run<decltype(scalar)>(r, common); });
}

}  // namespace program
