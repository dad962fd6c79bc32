#include <iostream>
#include <optional>

#include <distil_xlstm/comm/agree.hpp>
#include <distil_xlstm/distil/target_layers.hpp>
#include <distil_xlstm/distil/teacher_cache.hpp>
#include <distil_xlstm/distil/token_windows.hpp>
#include <distil_xlstm/io/write_tokenizer.hpp>
#include <distil_xlstm/loss/alignment_term.hpp>

#include "command.hpp"
#include "engine.hpp"
#include "one_job.hpp"
#include "processes.hpp"
#include "text.hpp"

namespace program {
namespace {

constexpr const char* usage =
    "distil cache --teacher MODEL --tokens FILE --length L --out FOLDER [--alignment A --blocks N]\n\n"
    "Runs a teacher over a text once, in windows of L tokens, and saves its final hidden states, the layer\n"
    "means that the alignment needs, and its embedding and head. `train --cache` then runs no teacher, and "
    "still\n"
    "compares logits over the whole vocabulary. Several processes (mpirun -n N distil cache ...) share the "
    "windows, and\n"
    "rank 0 writes the files that one would.\n";

constexpr const char* examples = R"(
  # What `distil train --cache cache --tokens train.safetensors --length 512` reads
  distil cache --teacher smollm2.gguf --tokens train.safetensors --length 512 --out cache
)";

struct cache_options {
  fs::path teacher, tokens, out;
  dx::index length = 0, batch = 8, blocks = 6;
  std::string alignment = "average", store = "bf16";
};

/// What a cache is made from.
struct cache_input {
  std::unique_ptr<engine> on;
  dx::io::token_file tokens;
  dx::token_windows text;
  std::unique_ptr<teacher> from;
  std::optional<dx::io::tokenizer_data> tokenizer;
  std::vector<dx::layer_range> targets;
  dx::cache_identity identity;

  cache_input(const cache_options& o, const machine& where)
      : on(make_engine(where)),
        tokens(o.tokens),
        text(tokens, o.length),
        from(on->open_teacher(o.teacher)),
        tokenizer(tokenizer_of(o.teacher)) {
    const auto facts = from->facts();
    check_vocabulary(tokens, facts.vocabulary, tokenizer, "the teacher");
    warn_beyond_context(o.length, facts.context, o.teacher);
    const auto compared = dx::loss::layers_of(dx::loss::alignment_named(o.alignment));
    targets = dx::target_layers(compared, facts.layers, o.blocks);
    identity = {valid_utf8(o.teacher.filename().string()),
                hash_of(o.teacher),
                tokens.data_sha256(),
                text.count(),
                o.length,
                facts.width,
                facts.layers,
                o.alignment,
                std::ssize(targets)};
  }
};

void write_cache(const cache_options& o, const machine& where) {
  std::optional<cache_input> input;
  dx::comm::on_every_rank(processes(), [&] { input.emplace(o, where); });
  auto same = input->identity.json();
  same.erase("teacher");  // whose name may differ from machine to machine
  same.update({{"blocks", o.blocks}, {"batch", o.batch}, {"precision", where.precision}});
  require_one_job(same);

  dx::cache_writer cache;
  dx::comm::on_root(processes(), [&] {
    cache = dx::cache_writer(o.out, input->identity, o.store == "bf16" ? dx::dtype::bf16 : dx::dtype::f32);
    if (input->tokenizer) dx::io::write_tokenizer(o.out, *input->tokenizer);
  });
  input->from->write_cache(cache, input->text, o.batch, input->targets, [](dx::index done, dx::index all) {
    if (on_terminal())
      std::cerr << "\r" << done << "/" << all << " windows" << (done == all ? "\n" : "") << std::flush;
  });
}

}  // namespace

int cache(const arguments& given) {
  cache_options o;
  machine where;
  po::options_description options("Options");
  options.add_options()                                                                                    //
      ("teacher", po::value(&o.teacher)->value_name("MODEL"), "the frozen transformer")                    //
      ("tokens", po::value(&o.tokens)->value_name("FILE"), "the text to run it over (`distil tokenize`)")  //
      ("length", po::value(&o.length)->value_name("L"), "tokens in a window: the --length of `train`")     //
      ("out", po::value(&o.out)->value_name("FOLDER"), "where to write the cache")                         //
      ("alignment", po::value(&o.alignment)->default_value(o.alignment),
       "average, ratio, block_wise, cosine, mse, paper, none: what to save beside the final hidden states")  //
      ("blocks", po::value(&o.blocks)->default_value(o.blocks), "of the student, for ratio and block_wise")  //
      ("batch", po::value(&o.batch)->default_value(o.batch), "windows at a time")                            //
      ("store", po::value(&o.store)->default_value(o.store), "precision of the file: bf16, fp32");
  options.add(machine_options(where));
  po::variables_map values;
  if (!parse(given, {usage, examples}, options, values)) return 0;
  require_effects("cache", values);
  check(where);
  need(o.teacher, "teacher"), need(o.tokens, "tokens"), need(o.out, "out");
  if (o.length < 1)
    throw usage_error(values.count("length") ? "--length: must be at least 1" : "--length is missing");
  of_option("alignment", [&] { return dx::loss::alignment_named(o.alignment); });
  if (o.batch < 1 || o.blocks < 1) throw usage_error("--batch and --blocks must be at least 1");
  if (o.store != "bf16" && o.store != "fp32")
    throw usage_error("--store: '" + o.store + "' is not known (bf16, fp32 are)");
  write_cache(o, where);
  return 0;
}

}  // namespace program
