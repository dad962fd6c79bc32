#include <unistd.h>

#include <distil_xlstm/device/cpu_attention.hpp>
#include <distil_xlstm/distil/teacher_cache.hpp>
#include <distil_xlstm/distil/windows.hpp>
#include <distil_xlstm/model/llama.hpp>

#include "command.hpp"

namespace program {
namespace {

constexpr const char* usage =
    "distil cache --teacher MODEL --tokens FILE --length L --out FOLDER [--alignment A --blocks N]\n\n"
    "Runs a teacher over a text once, in windows of L tokens, and writes down its final hidden states, the "
    "layer means\n"
    "that the alignment needs, and its embedding and head: `train --cache` then needs no teacher, and has the "
    "whole\n"
    "vocabulary's logits from d numbers a token. --store says as what.\n";

struct request {
  fs::path teacher, tokens, out;
  dx::index length = 0, batch = 8, blocks = 6;
  std::string alignment = "average", store = "bf16";
};

template <class T>
int run(const request& r, const common_options& common) {
  using cpu = dx::device::cpu;
  dx::device::cpu device(common.threads);
  common.apply(device);
  const dx::io::token_file tokens(r.tokens);
  const dx::windows text(tokens, r.length);
  const auto teacher = dx::llama<T, cpu>::load(device, r.teacher);
  dx::require(tokens.vocab_size() <= teacher.vocabulary(), r.tokens.string(), ": made with a vocabulary of ",
              tokens.vocab_size(), ", the teacher has ", teacher.vocabulary());
  const auto tokenizer = tokenizer_of(r.teacher);
  if (tokenizer && !tokens.tokenizer_sha256().empty())
    dx::require(tokens.tokenizer_sha256() == dx::io::tokenizer(*tokenizer).fingerprint(), r.tokens.string(),
                ": made with another tokenizer than the teacher's");

  const auto plan =
      dx::alignment_plan::make(dx::loss::alignment_named(r.alignment), teacher.config().layers, r.blocks);
  const auto targets = static_cast<dx::index>(plan.groups.size());
  dx::cache_writer cache(r.out,
                         {r.teacher.filename().string(), hash_of(r.teacher), tokens.data_sha256(), text.count(),
                          r.length, teacher.width(), teacher.config().layers, r.alignment, targets},
                         r.store == "bf16" ? dx::element::bf16 : dx::element::f32);
  dx::live_teacher source(teacher, plan);
  const dx::index rows = r.batch * r.length, d = teacher.width();
  const dx::buffer<T, cpu> memory(device, rows * d * (1 + targets));
  dx::token_batch batch;
  dx::placed_batch<cpu> placed;
  for (dx::index first = 0; first < text.count(); first += r.batch) {
    std::vector<dx::index> which;
    for (dx::index w = first; w < std::min(text.count(), first + r.batch); ++w) which.push_back(w);
    text.read(which, batch);
    const dx::index n = batch.batch * r.length;
    dx::teacher_signals<T> signals;
    signals.last_hidden = {memory.data(), n, d};
    for (dx::index g = 0; g < targets; ++g)
      signals.targets.emplace_back(memory.data() + (g + 1) * rows * d, n, d);
    placed.put(device, batch);
    source.fill(device, which, placed, signals);
    cache.append(device, signals);
    if (::isatty(2)) std::cerr << "\r" << which.back() + 1 << "/" << text.count() << " windows" << std::flush;
  }
  if (::isatty(2)) std::cerr << "\n";
  if (tokenizer) dx::io::write_tokenizer(r.out, *tokenizer);
  cache.finish(device, teacher.embedding(), teacher.head());
  return 0;
}

}  // namespace

int cache(const arguments& given) {
  request r;
  common_options common;
  po::options_description options("Options");
  options.add_options()                                                                                 //
      ("teacher", po::value(&r.teacher)->value_name("MODEL"), "the frozen transformer")                 //
      ("tokens", po::value(&r.tokens)->value_name("FILE"), "what it reads (`distil tokenize`)")         //
      ("length", po::value(&r.length)->value_name("L"), "tokens in a window: the --length of `train`")  //
      ("out", po::value(&r.out)->value_name("FOLDER"), "where it is written")                           //
      ("alignment", po::value(&r.alignment)->default_value(r.alignment),
       "average, ratio, block_wise, cosine, mse, paper, none: what is needed beside the final hidden states")  //
      ("blocks", po::value(&r.blocks)->default_value(r.blocks), "of the student, for ratio and block_wise")  //
      ("batch", po::value(&r.batch)->default_value(r.batch), "windows at a time")                            //
      ("store", po::value(&r.store)->default_value(r.store), "as bf16 or fp32");
  options.add(common.description("fp32, bf16 (products of bf16, sums of fp32), fp64"));
  po::variables_map values;
  if (!parse(given, usage, options, values)) return 0;
  common.check();
  need(r.teacher, "teacher"), need(r.tokens, "tokens"), need(r.out, "out");
  if (r.length < 1)
    throw usage_error(values.count("length") ? "--length: must be at least 1" : "--length is missing");
  of_option("alignment", [&] { return dx::loss::alignment_named(r.alignment); });
  if (r.batch < 1 || r.blocks < 1) throw usage_error("--batch and --blocks must be at least 1");
  if (r.store != "bf16" && r.store != "fp32")
    throw usage_error("--store: '" + r.store + "' is not known (bf16, fp32 are)");
  return common.with_scalar([&](auto scalar) { return run<decltype(scalar)>(r, common); });
}

}  // namespace program
