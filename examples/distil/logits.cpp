#include "command.hpp"
#include "options.hpp"

namespace program {
namespace {

constexpr const char* usage =
    "distil logits --model MODEL --ids FILE --out FILE [--precision fp64]\n\n"
    "FILE holds an I32 tensor `ids` [B, S]. Written are `logits` [B, S, V], `last_hidden` [B, S, d] (after the "
    "final\n"
    "norm, what the head reads) and `hidden.0` to `hidden.N` [B, S, d]: the embedding, then each block's "
    "output. F32;\n"
    "F64 under --precision fp64.\n";

}  // namespace

int logits(const arguments& given) {
  logits_request r;
  common_options common;
  po::options_description options("Options");
  options.add_options()                                                                   //
      ("model", po::value(&r.model_path)->value_name("MODEL"), "a teacher or a student")  //
      ("ids", po::value(&r.ids_path)->value_name("FILE"), "safetensors with `ids`")       //
      ("out", po::value(&r.out)->value_name("FILE"), "safetensors to write");
  options.add(common.description());
  po::variables_map values;
  if (!parse(given, usage, options, values)) return 0;
  common.check();
  need(r.model_path, "model"), need(r.ids_path, "ids"), need(r.out, "out");
  return run_on(common, r);
}

}  // namespace program
