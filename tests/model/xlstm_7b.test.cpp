#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include <distil_xlstm/device/cpu.hpp>
#include <distil_xlstm/distil/perplexity.hpp>
#include <distil_xlstm/io/atomic_file.hpp>
#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/io/safetensors_writer.hpp>
#include <distil_xlstm/loss/head.hpp>
#include <distil_xlstm/model/decoder.hpp>
#include <distil_xlstm/model/load_language_model.hpp>
#include <distil_xlstm/model/reader.hpp>
#include <distil_xlstm/testing/gradcheck.hpp>
#include <distil_xlstm/testing/tolerances.hpp>

#include "../comparison/condition.hpp"
#include "../refused.hpp"
#include "../temporary_folder.hpp"

namespace distil_xlstm {
namespace {

namespace fs = std::filesystem;
using testing::tolerance;
fs::path golden(const std::string& name) { return fs::path(DISTIL_XLSTM_TEST_DATA) / "golden/large" / name; }
const char* const folders[] = {"sample", "caps", "tied_sharded_bf16"};

/// What the reference says about a folder.
struct reference {
  io::safetensors_file file;
  std::vector<std::int32_t> ids;
  sequence_view seq;
  explicit reference(const std::string& name) : file(golden(name) / "expected.safetensors") {
    const auto& info = file.at("ids");
    ids = info.values<std::int32_t>();
    seq = {info.shape[0], info.shape[1]};
  }
  std::vector<double> operator[](const std::string& name) const { return file.at(name).values<double>(); }
};

template <class T>
void check(const std::string& what, const T* got, const std::vector<double>& want, double limit) {
  const double off = testing::relative_error(got, want.data(), static_cast<index>(want.size()));
  BOOST_TEST_MESSAGE(what << " " << off);
  BOOST_TEST_CONTEXT(what) BOOST_TEST(off <= limit);
}

/// Weights of a stack that can be trained, from the files of a folder.
template <class T, class D>
void upload(D& device, distil_xlstm::model<xlstm_7b_stack, T, D>& to, const fs::path& folder) {
  const io::tensor_folder files(folder);
  for (const auto& e : to.names()) {
    std::string name = e.name;
    for (const auto& [ours, other] : {std::pair{".q.", ".query."}, {".k.", ".key."}, {".v.", ".value."}})
      if (const auto at = name.find(ours); at != name.npos && !files.tensors().contains(name))
        name.replace(at, std::string(ours).size(), other);
    const auto values = files.tensors().at(name)->template values<T>();
    device.upload(to.weights().data() + e.offset, values.data(), e.size * static_cast<index>(sizeof(T)));
  }
}

/// The stack of a folder in a student, where it has gradients: `last_hidden`, and `grad.NAME` of sum(W logits).
template <class T, class D>
testing::named_numbers<T> trained(D& device, const std::string& name) {
  const auto model = load_xlstm_7b<T>(device, golden(name));
  const reference want(name);
  const index rows = want.seq.rows(), d = model.width(), v = model.vocabulary();
  testing::named_numbers<T> out;
  const auto matrix = [&](const std::string& of, index r, index c) {
    out[of].assign(static_cast<std::size_t>(r * c), T(0));
    return matrix_view<T>(out[of].data(), r, c);
  };
  const auto x = matrix("x", rows, d), hidden = matrix("last_hidden", rows, d),
             dhidden = matrix("dhidden", rows, d), dx = matrix("dx", rows, d),
             logits = matrix("logits", rows, v), dlogits = matrix("dlogits", rows, v),
             dembedding = matrix("grad.backbone.embeddings.weight", v, d);

  distil_xlstm::model<xlstm_7b_stack, T, D> s(device, model.config().stack(), model.embedding(),
                                              model.head().matrix, model.owner(), "backbone");
  upload(device, s, golden(name));
  testing::shake(device, s.weights().data(), s.weights().size());
  auto state = s.make_state(device, want.seq.batch);
  auto tape = s.make_tape(device, want.seq.batch, want.seq.time, false);
  typename decltype(s)::weights_type gradients(device, s.stack());
  s.forward(device, want.seq, want.ids.data(), state, tape, x, hidden);
  write_logits(device, matrix_view<const T>(hidden), model.head(), logits);
  want.file.at("W").copy_to(dlogits.data);
  soft_cap_backward(device, matrix_view<const T>(logits), dlogits, model.config().logit_cap);
  gemm(device, matrix_view<const T>(dlogits), model.head().matrix, dhidden);
  s.stack().backward(device, want.seq, s.weights().views(), gradients.views(), tape.views(),
                     matrix_view<const T>(x), matrix_view<const T>(dhidden), dx);
  for (const auto& e : s.names())
    out["grad." + e.name].assign(gradients.data() + e.offset, gradients.data() + e.offset + e.size);
  const bool tied = model.head().matrix.data == model.embedding().data;
  const auto dhead = tied ? dembedding : matrix("grad.lm_head.weight", v, d);
  gemm(device, transposed(matrix_view<const T>(dlogits)), matrix_view<const T>(hidden), dhead);
  for (index r = 0; r < rows; ++r)
    for (index c = 0; c < d; ++c) dembedding.row(want.ids[static_cast<std::size_t>(r)])[c] += dx.row(r)[c];
  for (const char* none : {"x", "dhidden", "dx", "dlogits"}) out.erase(none);
  return out;
}

template <class T>
void compare(const std::string& name) {
  device::cpu cpu(2);
  const auto model = load_xlstm_7b<T>(cpu, golden(name));
  const reference want(name);
  const index rows = want.seq.rows(), d = model.width(), v = model.vocabulary();
  std::vector<T> memory(static_cast<std::size_t>(2 * rows * d + rows * v));
  const matrix_view<T> x(memory.data(), rows, d), hidden(x.data + rows * d, rows, d),
      logits(hidden.data + rows * d, rows, v);

  auto state = model.make_state(cpu, want.seq.batch);
  auto tape = model.make_tape(cpu, want.seq.batch, want.seq.time);
  index seen = 0;
  model.forward(cpu, want.seq, want.ids.data(), state, tape, x, hidden, [&](index i, matrix_view<const T> y) {
    BOOST_TEST(i == seen++);
    check(name + " hidden." + std::to_string(i + 1), y.data, want["hidden." + std::to_string(i + 1)],
          tolerance<T>::reference_forward);
  });
  BOOST_TEST(seen == model.config().blocks);
  check(name + " hidden.0", x.data, want["hidden.0"], tolerance<T>::reference_forward);
  check(name + " last_hidden", hidden.data, want["last_hidden"], tolerance<T>::reference_forward);
  write_logits(cpu, matrix_view<const T>(hidden), model.head(), logits);
  check(name + " logits", logits.data, want["logits"], tolerance<T>::reference_forward);

  const auto condition = testing::conditions([&](auto& device) { return trained<double>(device, name); });
  for (const auto& [what, got] : trained<T>(cpu, name))
    check(name + " trained " + what, got.data(), want[what],
          what.starts_with("grad.") ? tolerance<T>::reference_gradient(condition.at(what))
                                    : tolerance<T>::reference_forward);
}
}  // namespace

BOOST_AUTO_TEST_CASE(the_reference_in_double) {
  for (const char* f : folders) compare<double>(f);
}
BOOST_AUTO_TEST_CASE(the_reference_in_float) {
  for (const char* f : folders) compare<float>(f);
}

BOOST_AUTO_TEST_CASE(any_length_and_any_parts_are_the_whole) {
  device::cpu cpu(2);
  const auto model = load_xlstm_7b<double>(cpu, golden("sample"));
  const reference want("sample");
  const auto whole = want["last_hidden"];
  const index time = want.seq.time, d = model.width();
  const double limit = tolerance<double>::reference_forward;
  std::vector<double> x(whole.size()), y(whole.size());
  const auto read = [&](const auto& state, index first, index n) {
    auto tape = model.make_tape(cpu, 1, n);
    model.forward(cpu, {1, n}, want.ids.data() + first, state, tape, {x.data(), n, d}, {y.data(), n, d});
    return testing::relative_error(y.data(), whole.data() + first * d, n * d);
  };
  for (const index n : {1, 5, 13, 64, 65, 66}) BOOST_TEST(read(model.make_state(cpu, 1), 0, n) <= limit);
  for (const index cut : {1, 13, 35, 64, 65}) {
    auto state = model.make_state(cpu, 1);
    BOOST_TEST(read(state, 0, cut) <= limit);
    BOOST_TEST(read(state, cut, time - cut) <= limit);
  }
  reader session(cpu, model);
  std::vector<std::byte> saved;
  const auto step = [&](index t) {
    session.read({want.ids.data() + t, 1}, {y.data(), 1, d});
    BOOST_TEST(testing::relative_error(y.data(), whole.data() + t * d, d) <= limit);
  };
  for (index t = 0; t < time; ++t) {
    if (t == 20) saved = session.save();
    step(t);
  }
  session.restore(saved);
  step(20);
  session.reset();
  step(0);
}

BOOST_AUTO_TEST_CASE(wherever_logits_are_read_they_are_capped) {
  device::cpu cpu(2);
  const auto model = load_language_model<double>(cpu, golden("caps"));
  BOOST_REQUIRE(std::holds_alternative<xlstm_7b_config>(model.config().family));
  BOOST_TEST(!model.has_cache());
  const reference want("caps");
  const auto logits = want["logits"];
  const index time = want.seq.time, rows = want.seq.rows(), d = model.width(), v = model.vocabulary();
  BOOST_TEST(model.depth() == 1);
  BOOST_TEST(model.head().cap == 2.0);

  std::vector<double> hidden(static_cast<std::size_t>(rows * d)), nll(static_cast<std::size_t>(rows));
  reader read(cpu, model);
  index seen = 0;
  read(want.seq, want.ids.data(), {hidden.data(), rows, d}, [&](index i, matrix_view<const double> h) {
    BOOST_TEST(i == seen++);
    check("hidden." + std::to_string(i), h.data, want["hidden." + std::to_string(i)], 1e-10);
  });
  BOOST_TEST(seen == 2);
  // Log-likelihoods.
  const auto log_sum = [&](index r) {
    double sum = 0;
    for (index c = 0; c < v; ++c) sum += std::exp(logits[static_cast<std::size_t>(r * v + c)]);
    return std::log(sum);
  };
  loss::score_tokens(cpu, matrix_view<const double>(hidden.data(), rows, d), model.head(), want.ids.data(),
                     nullptr, nll.data());
  for (index r = 0; r < rows; ++r)
    BOOST_TEST(nll[static_cast<std::size_t>(r)] ==
                   log_sum(r) - logits[static_cast<std::size_t>(r * v + want.ids[static_cast<std::size_t>(r)])],
               boost::test_tools::tolerance(1e-9));
  // The perplexity of a text.
  const token_text text{{want.ids.begin(), want.ids.begin() + time}};
  const auto score = score_text<double>(cpu, text, time, 8, model.head(), read);
  double sum = 0;
  for (index t = 0; t + 1 < time; ++t)
    sum += log_sum(t) - logits[static_cast<std::size_t>(t * v + want.ids[static_cast<std::size_t>(t + 1)])];
  BOOST_TEST(score.nll == sum, boost::test_tools::tolerance(1e-9));
  // Chosen tokens: as often as the capped logits say.
  std::vector<double> often(static_cast<std::size_t>(v));
  const int draws = 4000;
  decoder texts(cpu, model, {.capacity = 1});
  for (int i = 0; i < draws; ++i) {
    texts.join(std::span(want.ids).first(static_cast<std::size_t>(time)),
               {.seed = static_cast<std::uint64_t>(i)});
    while (texts.texts() > 0)
      texts.step([&](auto, std::int32_t id) {
        often[static_cast<std::size_t>(id)] += 1.0 / draws;
        return false;
      });
  }
  for (index c = 0; c < v; ++c) {
    const double p = std::exp(logits[static_cast<std::size_t>((time - 1) * v + c)] - log_sum(time - 1));
    BOOST_TEST(std::abs(often[static_cast<std::size_t>(c)] - p) <= 5 * std::sqrt(p / draws));
  }
}

BOOST_AUTO_TEST_CASE(fused_weights_are_the_same_model) {
  const temporary_folder folder;
  device::cpu cpu(1);
  const io::safetensors_file single(golden("caps") / "model.safetensors");
  io::json c = io::read_json_file(golden("caps") / "config.json");
  c["weight_mode"] = "fused";
  io::write_text_atomically(folder.path / "config.json", c.dump());
  // What lies in one tensor, by the ends of the names.
  const std::pair<std::string, std::vector<std::string>> fused[] = {
      {"mlstm_layer.qkv_opreact.weight",
       {"mlstm_layer.q.weight", "mlstm_layer.k.weight", "mlstm_layer.v.weight",
        "mlstm_layer.ogate_preact.weight"}},
      {"mlstm_layer.ifgate_preact.weight",
       {"mlstm_layer.igate_preact.weight", "mlstm_layer.fgate_preact.weight"}},
      {"mlstm_layer.ifgate_preact.bias", {"mlstm_layer.igate_preact.bias", "mlstm_layer.fgate_preact.bias"}},
      {"ffn.proj_up_gate_z.weight", {"ffn.proj_up_gate.weight", "ffn.proj_up.weight"}}};
  const auto write = [&](bool whole) {
    std::vector<std::pair<std::string, std::vector<const io::tensor_info*>>> out;
    for (const auto& [name, parts] : fused) {
      out.push_back({"backbone.blocks.0." + name, {}});
      for (const auto& p : parts) out.back().second.push_back(&single.at("backbone.blocks.0." + p));
      if (!whole) out.back().second.pop_back();
    }
    for (const auto& t : single.tensors())
      if (std::none_of(std::begin(fused), std::end(fused), [&](const auto& f) {
            return std::any_of(f.second.begin(), f.second.end(),
                               [&](const auto& p) { return t.name.ends_with("." + p); });
          }))
        out.push_back({t.name, {&t}});
    io::safetensors_writer file;
    for (const auto& [name, parts] : out) {
      auto shape = parts[0]->shape;
      shape[0] = 0;
      for (const auto* p : parts) shape[0] += p->shape[0];
      file.declare(name, dtype::f32, shape);
    }
    file.open(folder.path / "model.safetensors");
    for (const auto& [name, parts] : out)
      for (const auto* p : parts) file.append(p->values<float>().data(), p->size());
    file.commit();
  };
  write(true);
  const auto a = load_xlstm_7b<double>(cpu, golden("caps")), b = load_xlstm_7b<double>(cpu, folder.path);
  const reference want("caps");
  const auto hidden = [&](const auto& model) {
    std::vector<double> y(want["last_hidden"].size()), x = y;
    const index rows = want.seq.rows(), d = model.width();
    model.forward(cpu, want.seq, want.ids.data(), model.make_state(cpu, want.seq.batch),
                  model.make_tape(cpu, want.seq.batch, want.seq.time), {x.data(), rows, d},
                  {y.data(), rows, d});
    return y;
  };
  BOOST_TEST((hidden(a) == hidden(b)));
  write(false);
  for (const char* part : {"qkv_opreact.weight has shape [32, 8] instead of 48 rows",
                           "backbone.blocks.0.mlstm_layer.fgate_preact.bias is missing"})
    BOOST_CHECK_EXCEPTION(load_xlstm_7b<double>(cpu, folder.path), error, says(part));
}

BOOST_AUTO_TEST_CASE(the_shape_of_7b) {
  io::json nothing_given;
  nothing_given["model_type"] = "xlstm";
  const auto seven = read_xlstm_7b_config(nothing_given, "config.json");
  BOOST_TEST(seven.total() == 6865424896);
  BOOST_TEST(seven.query() == 2048);
  BOOST_TEST(seven.feed_forward() == 10944);
  // The reference rounds down where the product has a fraction.
  xlstm_7b_config c;
  c.feed_forward_factor = 2.6667;
  for (const auto& [width, inner] :
       {std::pair<index, index>{48, 128}, {96, 256}, {192, 512}, {384, 1024}, {768, 2048}, {2048, 5504}}) {
    c.width = width;
    BOOST_TEST(c.feed_forward() == inner);
  }
}

BOOST_AUTO_TEST_CASE(what_is_not_supported_is_said) {
  const auto refused = [](const std::string& key, io::json value, const std::string& message) {
    io::json c = io::read_json_file(golden("sample") / "config.json");
    c[key] = std::move(value);
    BOOST_CHECK_EXCEPTION(read_xlstm_7b_config(c, "config.json"), error, says(message));
  };
  refused("model_type", "mamba", "model_type 'mamba' is not xlstm");
  refused("use_bias", true, "use_bias true is not supported");
  refused("weight_mode", "packed", "weight_mode 'packed' is not supported");
  refused("quantization_config", {{"bits", 4}}, "quantization_config is not supported");
  refused("embedding_dim", 16, "hidden_size is 8, embedding_dim is 16");
  refused("num_blocks", 3, "num_hidden_layers is 2, num_blocks is 3");
  refused("num_heads", 3, "num_heads 3 does not divide the width 4");
  refused("gate_soft_cap", 0, "gate_soft_cap of 0 is not possible");
  refused("output_logit_soft_cap", "none", "output_logit_soft_cap must be a number");
  refused("qk_dim_factor", -1.0, "a factor of -1");
  refused("ffn_round_up_to_multiple_of", 0, "ffn_round_up_to_multiple_of 0 is not possible");
  refused("num_hidden_layers", -1, "must be positive");
  refused("eps", 0.0, "must be positive");
}

BOOST_AUTO_TEST_CASE(all_wrong_tensors_are_listed) {
  const temporary_folder folder;
  device::cpu cpu(1);
  io::json c = io::read_json_file(golden("sample") / "config.json");
  c["num_hidden_layers"] = 1;
  c["ffn_proj_factor"] = 4.0;
  c["vocab_size"] = 25;
  io::write_text_atomically(folder.path / "config.json", c.dump());
  fs::copy_file(golden("sample") / "model.safetensors", folder.path / "model.safetensors");
  for (const char* part : {"lm_head.weight has shape [24, 8] instead of [25, 8]",
                           "backbone.blocks.0.ffn.proj_down.weight has shape [8, 24] instead of [8, 32]",
                           "backbone.blocks.1.mlstm_layer.q.weight is not used"})
    BOOST_CHECK_EXCEPTION(load_xlstm_7b<float>(cpu, folder.path), error, says(part));
  c["num_hidden_layers"] = 3;
  io::write_text_atomically(folder.path / "config.json", c.dump());
  BOOST_CHECK_EXCEPTION(load_xlstm_7b<float>(cpu, folder.path), error,
                        says("backbone.blocks.2.mlstm_layer.igate_preact.bias is missing"));
}

}  // namespace distil_xlstm
