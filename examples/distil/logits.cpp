#include <distil_xlstm/io/safetensors.hpp>

#include "command.hpp"
#include "models.hpp"

namespace program {
namespace {

constexpr const char* usage =
    "distil logits --model MODEL --ids FILE --out FILE [--precision fp64]\n\n"
    "FILE holds an I32 tensor `ids` [B, S]. Written are `logits` [B, S, V], `last_hidden` [B, S, d] (after the "
    "final\n"
    "norm, what the head reads) and `hidden.0` to `hidden.N` [B, S, d]: the embedding, then each block's "
    "output. F32;\n"
    "F64 under --precision fp64.\n";

template <class T>
int run(const fs::path& path, const fs::path& ids_path, const fs::path& out, const common_options& common) {
  const dx::io::safetensors_file ids_file(ids_path);
  const auto& given = ids_file.at("ids");
  dx::require(given.element == dx::element::i32 && given.shape.size() == 2 && given.size() > 0, ids_file.path(),
              ": ids must be I32 [B, S], not ", given.type, " ", dx::io::detail::shape_text(given.shape));
  const auto ids = given.template values<std::int32_t>();
  dx::device::cpu device(common.threads);
  common.apply(device);
  const auto model = dx::language_model<T, dx::device::cpu>::load(device, path);
  const dx::sequence_view seq{given.shape[0], given.shape[1]};
  const dx::index rows = seq.rows(), d = model.width(), v = model.vocabulary();
  for (std::size_t i = 0; i < ids.size(); ++i)
    dx::require(ids[i] >= 0 && ids[i] < v, ids_file.path(), ": the id at position ", i, " is ", ids[i],
                ", the vocabulary has ", v);

  std::vector<dx::buffer<T, dx::device::cpu>> hidden;
  for (dx::index i = 0; i <= model.depth(); ++i) hidden.emplace_back(device, rows * d);
  dx::buffer<T, dx::device::cpu> last(device, rows * d);
  typename dx::language_model<T, dx::device::cpu>::reader read(device, model);
  read(seq, ids.data(), {last.data(), rows, d}, [&](dx::index i, dx::matrix_view<const T> h) {
    device.copy(hidden[static_cast<std::size_t>(i)].data(), h.data,
                h.size() * static_cast<dx::index>(sizeof(T)));
  });

  const auto kind = std::is_same_v<T, double> ? dx::element::f64 : dx::element::f32;
  dx::io::safetensors_writer file;
  for (dx::index i = 0; i <= model.depth(); ++i)
    file.declare("hidden." + std::to_string(i), kind, {seq.batch, seq.time, d});
  file.declare("last_hidden", kind, {seq.batch, seq.time, d});
  file.declare("logits", kind, {seq.batch, seq.time, v});
  file.open(out);
  for (const auto& h : hidden) file.append(h.data(), rows * d);
  file.append(last.data(), rows * d);
  // The vocabulary's columns are many: a few rows at a time.
  const dx::index part = std::min<dx::index>(rows, 64);
  dx::buffer<T, dx::device::cpu> logits(device, part * v);
  for (dx::index first = 0; first < rows; first += part) {
    const dx::index n = std::min(part, rows - first);
    dx::write_logits(device, dx::matrix_view<const T>(last.data() + first * d, n, d), model.head(),
                     dx::matrix_view<T>(logits.data(), n, v));
    file.append(logits.data(), n * v);
  }
  file.commit();
  return 0;
}

}  // namespace

int logits(const arguments& given) {
  fs::path model, ids, out;
  common_options common;
  po::options_description options("Options");
  options.add_options()                                                            //
      ("model", po::value(&model)->value_name("MODEL"), "a teacher or a student")  //
      ("ids", po::value(&ids)->value_name("FILE"), "safetensors with `ids`")       //
      ("out", po::value(&out)->value_name("FILE"), "safetensors to write");
  options.add(common.description("fp32, bf16 (products of bf16, sums of fp32), fp64"));
  po::variables_map values;
  if (!parse(given, usage, options, values)) return 0;
  common.check();
  need(model, "model"), need(ids, "ids"), need(out, "out");
  return common.with_scalar([&](auto scalar) { return run<decltype(scalar)>(model, ids, out, common); });
}

}  // namespace program
