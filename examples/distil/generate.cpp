#include <algorithm>
#include <iostream>
#include <optional>

#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/io/stream_decoder.hpp>
#include <distil_xlstm/model/sampler.hpp>

#include "chat_template.hpp"
#include "command.hpp"
#include "engine.hpp"
#include "text.hpp"

namespace program {
namespace {

constexpr const char* usage =
    "distil generate --model MODEL (--prompt TEXT | --prompts FILE) [options]\n\n"
    "Continues a text, and prints it as it is generated. Without --temperature, --top-k or --top-p each token "
    "is\n"
    "the most likely one.\n\n"
    "With --prompts it continues many texts, --batch of them at once, one joining as another ends, and prints "
    "a\n"
    "line of JSON for each, in the file's order: {\"line\": 1, \"text\": \"...\", \"tokens\": 100}. Line n is\n"
    "sampled with the seed --seed + n - 1, whatever else is in the batch.\n";

constexpr const char* examples = R"(
  # One text
  distil generate --model run/student --prompt "In the beginning" --tokens 200 --temperature 0.8
  # An answer to each line of a file, 32 at once
  distil generate --model run/student --prompts questions.txt --chat --batch 32
)";

struct generate_options {
  fs::path model;
  std::string prompt;
  fs::path prompts;
  dx::index batch = 64, tokens = 100;
  dx::sampling how;
  bool chat = false;
};

std::vector<std::int32_t> prompt_ids(const generate_options& o, const std::string& prompt,
                                     const std::string& name, const dx::io::tokenizer& t) {
  if (o.chat) {
    const chat_message asked[] = {{"user", prompt}};
    return encode_text(t, apply_chat_template(t.data(), asked, true), name, true);
  }
  std::vector<std::int32_t> ids;
  if (!prompt.empty()) ids = encode_text(t, prompt, name, true);
  if (t.data().add_bos && (ids.empty() || ids.front() != t.data().bos)) ids.insert(ids.begin(), t.data().bos);
  if (ids.empty() && t.document_start() >= 0) ids.push_back(t.document_start());
  dx::require(!ids.empty(), name, ": the text is empty, and the model has no token that begins one");
  return ids;
}

/// A closed pipe ends the job.
void require_stdout() { dx::require(std::cout.good(), "stdout: cannot be written"); }

void write_text(loaded_model& model, const generate_options& o, const dx::io::tokenizer& tokenizer) {
  const std::vector<std::int32_t> prompts[] = {prompt_ids(o, o.prompt, "--prompt", tokenizer)};
  warn_beyond_context(std::ssize(prompts[0]) + o.tokens, model.context(), o.model);
  dx::io::stream_decoder decoder(tokenizer, true);
  model.write(prompts, o.tokens, 1, o.how, [&](std::size_t, std::int32_t id) {
    if (tokenizer.is_end_of_text(id)) return false;
    std::cout << decoder.put(id) << std::flush;
    require_stdout();
    return true;
  });
  std::cout << decoder.finish() << "\n";
}

/// One line of JSON a text, in the order of the prompts, each as soon as all before it are there.
class text_lines {
 public:
  explicit text_lines(std::size_t count) : texts_(count) {}
  void end(std::size_t i, dx::index tokens, std::string text) {
    texts_[i] = {tokens, std::move(text), true};
    for (; next_ < texts_.size() && texts_[next_].over; ++next_) {
      one& t = texts_[next_];
      const dx::io::json line = {{"line", next_ + 1}, {"tokens", t.tokens}, {"text", t.text}};
      std::cout << line.dump() << std::endl;
      t.text = {};
    }
    require_stdout();
  }

 private:
  struct one {
    dx::index tokens = 0;
    std::string text = {};
    bool over = false;
  };
  std::vector<one> texts_;
  std::size_t next_ = 0;
};

/// A text that is being continued.
struct growing_text {
  std::optional<dx::io::stream_decoder> decoder;
  dx::index tokens = 0;
  std::string text = {};
};

void write_texts(loaded_model& model, const generate_options& o, const dx::io::tokenizer& tokenizer) {
  std::vector<std::vector<std::int32_t>> prompts;
  for_each_prompt(o.prompts, [&](const std::string& prompt, const std::string& name) {
    prompts.push_back(prompt_ids(o, prompt, name, tokenizer));
  });
  std::size_t longest = 0;
  for (const auto& p : prompts) longest = std::max(longest, p.size());
  warn_beyond_context(static_cast<dx::index>(longest) + o.tokens, model.context(), o.model);
  text_lines out(prompts.size());
  if (o.tokens == 0)
    for (std::size_t i = 0; i < prompts.size(); ++i) out.end(i, 0, {});
  std::vector<growing_text> texts(prompts.size());
  model.write(prompts, o.tokens, o.batch, o.how, [&](std::size_t i, std::int32_t id) {
    growing_text& t = texts[i];
    if (!t.decoder) t.decoder.emplace(tokenizer, true);
    if (!tokenizer.is_end_of_text(id)) {
      t.text += t.decoder->put(id);
      if (++t.tokens < o.tokens) return true;
    }
    out.end(i, t.tokens, t.text + t.decoder->finish());
    t = {};
    return false;
  });
}

}  // namespace

int generate(const arguments& given) {
  generate_options o;
  machine where;
  po::options_description options("Options");
  options.add_options()                                                                                    //
      ("model", po::value(&o.model)->value_name("MODEL"), "a teacher or a student")                        //
      ("prompt", po::value(&o.prompt)->value_name("TEXT"), "what to continue; special tokens are parsed")  //
      ("prompts", po::value(&o.prompts)->value_name("FILE"), "a prompt a line; -: stdin")                  //
      ("batch", po::value(&o.batch)->default_value(o.batch), "texts of --prompts at once")                 //
      ("chat", po::bool_switch(&o.chat), "the prompt is a question: apply the model's chat template")      //
      ("tokens", po::value(&o.tokens)->default_value(o.tokens), "tokens to generate, at most")             //
      ("temperature", po::value(&o.how.temperature), "sampling temperature; 0: the most likely token")     //
      ("top-k", po::value(&o.how.top_k), "sample from the k most likely tokens")                           //
      ("top-p", po::value(&o.how.top_p), "sample from the most likely tokens that together reach p")       //
      ("seed", po::value(&o.how.seed)->default_value(0), "random seed");
  options.add(machine_options(where));
  po::variables_map values;
  if (!parse(given, {usage, examples}, options, values)) return 0;
  require_effects("generate", values);
  check(where);
  need(o.model, "model");
  if (!values.count("prompt") && o.prompts.empty()) throw usage_error("--prompt is missing");
  if (values.count("prompt") && !o.prompts.empty())
    throw usage_error("--prompt and --prompts exclude each other");
  if (o.batch < 1) throw usage_error("--batch: must be 1 or more");
  if (o.tokens < 0) throw usage_error("--tokens: must not be negative");
  if (!values.count("temperature") && !values.count("top-k") && !values.count("top-p")) o.how.temperature = 0;
  try {
    dx::sampler check(o.how);
  } catch (const dx::error& e) {
    throw usage_error(e.what());
  }
  const auto engine = make_engine(where);
  const auto model = engine->load(o.model);
  const auto tokenizer = need_tokenizer(o.model, model->vocabulary());
  try {
    o.prompts.empty() ? write_text(*model, o, tokenizer) : write_texts(*model, o, tokenizer);
  } catch (const dx::numeric_error& e) {
    dx::fail(o.model.string(), ": ", e.what());
  }
  return 0;
}

}  // namespace program
