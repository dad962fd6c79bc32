#include <distil_xlstm/io/safetensors.hpp>

#include "command.hpp"
#include "engine.hpp"

namespace program {
namespace {

constexpr const char* usage =
    "distil logits --model MODEL --ids FILE --out FILE [--precision fp64]\n\n"
    "The input has an I32 tensor `ids` [B, S]. The output has `logits` [B, S, V], `last_hidden` [B, S, d] "
    "(after\n"
    "the final norm: what the head reads) and `hidden.0` to `hidden.N` [B, S, d] (the embedding, then each\n"
    "block's output), in F32; in F64 with --precision fp64.\n";

constexpr const char* examples = R"(
  # Of ids written by NumPy, say: safetensors.numpy.save_file({"ids": ids}, "ids.safetensors")
  distil logits --model run/student --ids ids.safetensors --out logits.safetensors
)";

}  // namespace

int logits(const arguments& given) {
  fs::path path, ids_path, out;
  machine where;
  po::options_description options("Options");
  options.add_options()                                                            //
      ("model", po::value(&path)->value_name("MODEL"), "a teacher or a student")   //
      ("ids", po::value(&ids_path)->value_name("FILE"), "safetensors with `ids`")  //
      ("out", po::value(&out)->value_name("FILE"), "safetensors to write");
  options.add(machine_options(where));
  po::variables_map values;
  if (!parse(given, {usage, examples}, options, values)) return 0;
  require_effects("logits", values);
  check(where);
  need(path, "model"), need(ids_path, "ids"), need(out, "out");

  const dx::io::safetensors_file file(ids_path);
  const auto& tensor = file.at("ids");
  dx::require(tensor.dtype == dx::dtype::i32 && tensor.shape.size() == 2 && tensor.size() > 0, file.path(),
              ": ids must be I32 [B, S], not ", tensor.type, " ", dx::io::detail::shape_text(tensor.shape));
  const auto ids = tensor.values<std::int32_t>();
  const auto engine = make_engine(where);
  const auto model = engine->load(path);
  for (std::size_t i = 0; i < ids.size(); ++i)
    dx::require(ids[i] >= 0 && ids[i] < model->vocabulary(), file.path(), ": the id at position ", i, " is ",
                ids[i], ", the vocabulary has ", model->vocabulary());
  warn_beyond_context(tensor.shape[1], model->context(), path);
  model->write_logits(tensor.shape[0], tensor.shape[1], ids, out);
  return 0;
}

}  // namespace program
