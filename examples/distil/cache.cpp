#include <distil_xlstm/loss/alignment_term.hpp>

#include "command.hpp"
#include "options.hpp"

namespace program {
namespace {

constexpr const char* usage =
    "distil cache --teacher MODEL --tokens FILE --length L --out FOLDER [--alignment A --blocks N]\n\n"
    "Runs a teacher over a text once, in windows of L tokens, and writes down its final hidden states, the "
    "layer means\n"
    "that the alignment needs, and its embedding and head: `train --cache` then needs no teacher, and has the "
    "whole\n"
    "vocabulary's logits from d numbers a token. --store says as what.\n";

}  // namespace

int cache(const arguments& given) {
  cache_request r;
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
  options.add(common.description());
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
  return run_on(common, r);
}

}  // namespace program
