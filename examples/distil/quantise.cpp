#include <algorithm>
#include <cmath>
#include <iostream>
#include <optional>
#include <variant>

#include <distil_xlstm/distil/perplexity.hpp>
#include <distil_xlstm/distil/score_divergence.hpp>
#include <distil_xlstm/distil/token_text.hpp>
#include <distil_xlstm/io/tensor_folder.hpp>
#include <distil_xlstm/model/quantise.hpp>

#include "command.hpp"
#include "engine.hpp"
#include "text.hpp"

namespace program {
namespace {

constexpr const char* usage =
    "distil quantise --model MODEL --type q8_0|q4_0 --out FILE.gguf [--text FILE | --tokens FILE]\n\n"
    "Writes a model of any kind, with its tokenizer, as one GGUF file in which a weight of a matrix takes 8.5\n"
    "bits (q8_0) or 4.5 (q4_0; in embedding and head 8.5). Norms, biases, convolutions, gates of cells and\n"
    "rows that are no multiple of 32 stay in F32. Every subcommand takes the file for a model; that of a\n"
    "transformer has the names and keys of llama.cpp.\n"
    "With a text, cut into windows as `evaluate` does, the table has the perplexity of both, and kl, the\n"
    "divergence KL(MODEL || FILE.gguf), nats a token.\n";

constexpr const char* examples = R"(
  # A student in 8 bits, and what that costs
  distil quantise --model run/student --type q8_0 --out student.gguf --tokens held.safetensors
)";

struct quantise_options {
  fs::path model, out, text, tokens;
  std::string type;
  dx::index window = 512;
};

/// A line of the table: a model, and what it gives for the text.
struct row {
  std::string name;
  dx::index bytes, numbers;
  std::optional<double> perplexity = {}, kl = {};
};

void print(const std::vector<row>& rows, bool scored) {
  const auto cell = [](std::string text, std::size_t width) {
    text.resize(std::max(text.size() + 1, width), ' ');
    return text;
  };
  const auto number = [](const std::optional<double>& x) { return x ? short_number(*x) : std::string(); };
  std::cout << cell("", 12) << cell("bytes", 16)
            << (scored ? cell("bits", 12) + cell("ppl", 12) + "kl" : "bits") << "\n";
  for (const row& r : rows) {
    std::cout << cell(r.name, 12) << cell(grouped(r.bytes), 16);
    const std::string bits =
        short_number(8 * static_cast<double>(r.bytes) / static_cast<double>(std::max<dx::index>(r.numbers, 1)));
    std::cout << (scored ? cell(bits, 12) + (r.kl ? cell(number(r.perplexity), 12) : number(r.perplexity)) +
                               number(r.kl)
                         : bits)
              << "\n";
  }
}

/// Perplexity of both, and the divergence of the second.
void score(const quantise_options& o, const machine& where, row& original, row& quantised) {
  const auto engine = make_engine(where);
  const auto model = engine->load(o.model), small = engine->load(o.out);
  const auto all = [&](const auto& text) {
    const std::string name = (o.tokens.empty() ? o.text : o.tokens).string();
    dx::require(text.size() >= 2, name, ": ", text.size(), " tokens are too few to score");
    warn_beyond_context(std::min(o.window, text.size()), model->context(), o.model);
    const auto of_model = model->score(text, o.window, false);
    const auto of_small = small->score(text, o.window, *model);
    for (const auto& [x, path] : {std::pair(of_model.nll, o.model), std::pair(of_small.text.nll, o.out)})
      dx::require(std::isfinite(x), path.string(), ": gives probabilities that are not numbers to ", name);
    original.perplexity = of_model.perplexity();
    quantised.perplexity = of_small.text.perplexity(), quantised.kl = of_small.mean_kl();
  };
  if (o.tokens.empty()) {
    const auto tokenizer = need_tokenizer(o.model, model->vocabulary());
    all(dx::token_text{encode_text(tokenizer, read_text(o.text), o.text.string(), false)});
  } else {
    const dx::io::token_file tokens(o.tokens);
    check_vocabulary(tokens, model->vocabulary(), tokenizer_of(o.model), "the model");
    all(tokens);
  }
}

}  // namespace

int quantise(const arguments& given) {
  quantise_options o;
  machine where;
  po::options_description options("Options");
  options.add_options()                                                                     //
      ("model", po::value(&o.model)->value_name("MODEL"), "a teacher or a student")         //
      ("type", po::value(&o.type)->value_name("TYPE"), "q8_0 or q4_0")                      //
      ("out", po::value(&o.out)->value_name("FILE"), "the GGUF file to write")              //
      ("text", po::value(&o.text)->value_name("FILE"), "compare both on this text, UTF-8")  //
      ("tokens", po::value(&o.tokens)->value_name("FILE"), "or on this token file")         //
      ("window", po::value(&o.window)->default_value(o.window), "tokens in a window");
  options.add(machine_options(where));
  po::variables_map values;
  if (!parse(given, {usage, examples}, options, values)) return 0;
  require_effects("quantise", values);
  check(where);
  need(o.model, "model"), need(o.out, "out");
  if (o.type.empty()) throw usage_error("--type is missing");
  if (o.type != "q8_0" && o.type != "q4_0")
    throw usage_error("--type: '" + o.type + "' is not known (q8_0, q4_0 are)");
  if (!o.text.empty() && !o.tokens.empty()) throw usage_error("--text and --tokens: one of them");
  if (o.window < 2) throw usage_error("--window: a window of " + std::to_string(o.window) + " scores nothing");

  const auto written = dx::quantise(o.model, o.type == "q8_0" ? dx::dtype::q8_0 : dx::dtype::q4_0, o.out);
  row original{"original", 0, 0}, quantised{o.type, written.bytes, written.numbers};
  const dx::io::tensor_folder files(o.model);
  for (const auto& [name, t] : files.tensors()) original.bytes += t->bytes, original.numbers += t->size();
  const bool scored = !o.text.empty() || !o.tokens.empty();
  if (scored) score(o, where, original, quantised);
  std::cout << grouped(written.tensors) << " tensors, " << grouped(written.matrices) << " of them " << o.type
            << "\n";
  print({original, quantised}, scored);
  return 0;
}

}  // namespace program
