#define BOOST_TEST_MODULE llama
#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <thread>

#include <unistd.h>

#include <distil_xlstm/device/cpu.hpp>
#include <distil_xlstm/model/load_llama.hpp>
#include <distil_xlstm/model/random_llama.hpp>
#include <distil_xlstm/testing/tolerances.hpp>

#include "../comparison/teacher.hpp"
#include "write_gguf.hpp"

namespace distil_xlstm {
namespace {

namespace fs = std::filesystem;
template <class T>
using teacher = llama<T, device::cpu>;

fs::path golden(const std::string& name) { return fs::path(DISTIL_XLSTM_TEST_DATA) / "golden/teacher" / name; }

/// A folder of its own for a test, removed with it.
struct temporary_folder {
  fs::path path = fs::temp_directory_path() / ("distil_xlstm_llama_" + std::to_string(::getpid()));
  temporary_folder() { fs::create_directories(path); }
  ~temporary_folder() { fs::remove_all(path); }
};

std::vector<std::int32_t> some_ids(index n, index vocabulary, std::uint64_t seed = 9) {
  rng random(seed);
  std::vector<std::int32_t> ids(static_cast<std::size_t>(n));
  for (auto& id : ids) id = static_cast<std::int32_t>(random.below(static_cast<std::uint64_t>(vocabulary)));
  return ids;
}

template <class T>
std::vector<T> hidden_of(const teacher<T>& model, device::cpu& cpu, sequence_view seq,
                         const std::vector<std::int32_t>& ids) {
  std::vector<T> out(static_cast<std::size_t>(seq.rows() * model.width()));
  model.forward(cpu, seq, ids.data(), {out.data(), seq.rows(), model.width()});
  return out;
}

template <class T>
double apart(const std::vector<T>& a, const std::vector<T>& b) {
  BOOST_REQUIRE(a.size() == b.size());
  return testing::relative_error(a.data(), b.data(), static_cast<index>(a.size()));
}

template <class T>
void compare() {
  device::cpu cpu(2);
  const auto folders = testing::golden_models(golden(""));
  BOOST_REQUIRE(folders.size() >= 5);
  for (const auto& folder : folders) {
    const auto errors = testing::teacher_errors<T>(cpu, folder);
    BOOST_TEST(errors.size() > 3u);
    for (const auto& e : errors)
      BOOST_TEST(e.error <= testing::tolerance<T>::reference_forward,
                 folder.filename().string() << " " << e.name << ": off by " << e.error);
  }
}

auto says(std::string part) {
  return [part](const error& e) {
    const bool found = std::string(e.what()).find(part) != std::string::npos;
    if (!found) BOOST_TEST_MESSAGE(e.what());
    return found;
  };
}

io::json small_config() { return io::read_json_file(golden("llama_rope_parameters") / "config.json"); }

}  // namespace

BOOST_AUTO_TEST_CASE(teachers_in_double) { compare<double>(); }
BOOST_AUTO_TEST_CASE(teachers_in_float) { compare<float>(); }

BOOST_AUTO_TEST_CASE(a_gguf_file_is_the_same_model) {
  const temporary_folder folder;
  device::cpu cpu(2);
  for (const char* name : {"llama_rope_parameters", "llama_bf16", "qwen2_rope_theta", "qwen2_tied"}) {
    const auto file = folder.path / "model.gguf";
    testing::write_gguf(golden(name), file, false);
    const auto a = load_llama<double>(cpu, golden(name)), b = load_llama<double>(cpu, file);
    const auto ids = some_ids(26, a.vocabulary());
    BOOST_TEST(apart(hidden_of(b, cpu, {2, 13}, ids), hidden_of(a, cpu, {2, 13}, ids)) <= 1e-14);
    BOOST_TEST(b.config().tied == a.config().tied);

    testing::write_gguf(golden(name), file, true);
    const auto wide = load_llama<float>(cpu, file), stored = load_llama<float>(cpu, file, {false});
    BOOST_TEST((wide.embedding().dtype == dtype::f32));
    BOOST_TEST((stored.embedding().dtype == dtype::q8_0));
    BOOST_TEST((a.config().tied == (wide.head().data == wide.embedding().data)));
    BOOST_TEST(apart(hidden_of(stored, cpu, {2, 13}, ids), hidden_of(wide, cpu, {2, 13}, ids)) <= 1e-6);
  }
}

BOOST_AUTO_TEST_CASE(prefill_and_steps_are_the_whole) {
  device::cpu cpu(2);
  for (const char* name : {"llama_sharded_head_dim", "qwen2_tied"}) {
    const auto model = load_llama<double>(cpu, golden(name));
    const index time = 23, d = model.width();
    const auto ids = some_ids(2 * time, model.vocabulary());
    const auto whole = hidden_of(model, cpu, {2, time}, ids);
    auto state = model.make_state(cpu, 2, time);
    auto run = [&](auto& s, index from, index n) {
      std::vector<std::int32_t> part;
      for (index b = 0; b < 2; ++b)
        for (index t = from; t < from + n; ++t) part.push_back(ids[static_cast<std::size_t>(b * time + t)]);
      std::vector<double> out(static_cast<std::size_t>(2 * n * d));
      model.forward(cpu, {2, n}, part.data(), s, {out.data(), 2 * n, d});
      double worst = 0;
      for (index b = 0; b < 2; ++b)
        worst = std::max(worst, testing::relative_error(out.data() + b * n * d,
                                                        whole.data() + (b * time + from) * d, n * d));
      return worst;
    };
    BOOST_TEST(run(state, 0, 11) <= 1e-13);
    auto fork = state;
    for (index t = 11; t < time; ++t) BOOST_TEST(run(state, t, 1) <= 1e-13);
    BOOST_TEST(state.length(1) == time);
    BOOST_CHECK_EXCEPTION(run(state, 0, 1), error, says("the capacity of its state is 23"));
    BOOST_TEST(state.length(1) == time);
    BOOST_TEST(fork.length(0) == 11);
    BOOST_TEST(run(fork, 11, 12) <= 1e-13);
    // Sequences of different lengths in one batch.
    auto mixed = model.make_state(cpu, 2, time);
    run(mixed, 0, 5);
    auto saved = mixed.save(1);
    run(mixed, 5, 4);
    mixed.restore(1, saved);
    const std::int32_t next[] = {ids[9], ids[static_cast<std::size_t>(time + 5)]};
    std::vector<double> out(static_cast<std::size_t>(2 * d));
    model.forward(cpu, {2, 1}, next, mixed, {out.data(), 2, d});
    BOOST_TEST(testing::relative_error(out.data(), whole.data() + 9 * d, d) <= 1e-13);
    BOOST_TEST(testing::relative_error(out.data() + d, whole.data() + (time + 5) * d, d) <= 1e-13);
    mixed.reset();
    BOOST_TEST(mixed.length(0) == 0);
    BOOST_TEST(run(mixed, 0, 7) <= 1e-13);
  }
}

BOOST_AUTO_TEST_CASE(documents_are_apart) {
  device::cpu cpu(2);
  const auto model = load_llama<float>(cpu, golden("llama_bf16"));
  const index time = 90, cut = 37, d = model.width();
  auto ids = some_ids(time, model.vocabulary());
  std::vector<std::int32_t> start(time, -1);
  std::fill(start.begin() + cut, start.end(), static_cast<std::int32_t>(cut));
  const auto a = hidden_of(model, cpu, {1, time, start.data()}, ids);
  for (index t = 0; t < cut; ++t) ids[static_cast<std::size_t>(t)] = 7;
  const auto b = hidden_of(model, cpu, {1, time, start.data()}, ids);
  BOOST_TEST(std::equal(a.begin() + cut * d, a.end(), b.begin() + cut * d));
  // Alone it is the same document.
  const std::vector<std::int32_t> alone(ids.begin() + cut, ids.end());
  const auto c = hidden_of(model, cpu, {1, time - cut}, alone);
  BOOST_TEST(apart(c, std::vector<float>(a.begin() + cut * d, a.end())) <= 1e-5);
}

BOOST_AUTO_TEST_CASE(one_model_serves_many_threads) {
  device::cpu cpu(1);
  const auto model = load_llama<float>(cpu, golden("qwen2_rope_theta"));
  const auto ids = some_ids(60, model.vocabulary());
  const auto want = hidden_of(model, cpu, {2, 30}, ids);
  std::vector<std::vector<float>> got(4);
  std::vector<std::thread> threads;
  for (auto& out : got)
    threads.emplace_back([&] {
      device::cpu own(2);
      out = hidden_of(model, own, {2, 30}, ids);
    });
  for (auto& t : threads) t.join();
  for (const auto& out : got) BOOST_TEST((out == want));
}

BOOST_AUTO_TEST_CASE(what_is_not_supported_is_said) {
  const auto refused = [](const std::string& key, io::json value, const std::string& message) {
    io::json c = small_config();
    c[key] = std::move(value);
    BOOST_CHECK_EXCEPTION(read_llama_config(c, "config.json"), error, says(message));
  };
  refused("model_type", "mistral", "model_type 'mistral' is not supported");
  refused("rope_scaling", {{"type", "linear"}, {"factor", 2.0}}, "rope type 'linear' is not supported");
  refused("rope_parameters", {{"rope_type", "llama3"}, {"rope_theta", 1e4}},
          "rope type 'llama3' is not supported");
  refused("use_sliding_window", true, "use_sliding_window true is not supported");
  refused("hidden_act", "gelu", "hidden_act 'gelu' is not supported");
  refused("attention_bias", true, "attention_bias true is not supported");
  refused("mlp_bias", true, "mlp_bias true is not supported");
  refused("quantization_config", {{"bits", 4}}, "quantization_config is not supported");
  refused("num_key_value_heads", 3, "3 key heads do not divide the 4 heads");
  refused("hidden_size", "wide", "hidden_size must be an integer");
  refused("head_dim", 7, "a head of 7 has no pairs");
  refused("num_hidden_layers", -1, "must be positive");
}

BOOST_AUTO_TEST_CASE(all_wrong_tensors_are_listed) {
  const temporary_folder folder;
  device::cpu cpu(1);
  io::json c = small_config();
  c["intermediate_size"] = 40;
  c["num_hidden_layers"] = 1;
  c["tie_word_embeddings"] = false;
  io::write_text_atomically(folder.path / "config.json", c.dump());
  fs::copy_file(golden("llama_rope_parameters") / "model.safetensors", folder.path / "model.safetensors");
  for (const char* part : {"lm_head.weight is missing",
                           "model.layers.0.mlp.down_proj.weight has shape [32, 48] instead of [32, 40]",
                           "model.layers.1.self_attn.q_proj.weight is not used"})
    BOOST_CHECK_EXCEPTION(load_llama<float>(cpu, folder.path), error, says(part));
  fs::remove(folder.path / "model.safetensors");
  io::write_text_atomically(folder.path / "model.safetensors.index.json",
                            R"({"weight_map": {"a": "../model.safetensors"}})");
  BOOST_CHECK_EXCEPTION(load_llama<float>(cpu, folder.path), error, says("is not the name of a file"));
  fs::remove(folder.path / "model.safetensors.index.json");
  BOOST_CHECK_EXCEPTION(load_llama<float>(cpu, folder.path), error, says("model.safetensors: cannot open"));
}

BOOST_AUTO_TEST_CASE(a_random_teacher_is_one) {
  const llama_config shape{.model_type = "qwen2",
                           .vocabulary = 9000,
                           .width = 120,
                           .layers = 2,
                           .heads = 6,
                           .kv_heads = 2,
                           .head_dim = 24,
                           .intermediate = 130};
  const temporary_folder folder;
  write_random_llama(folder.path, shape, dtype::bf16, 4);
  device::cpu cpu(2);
  const auto model = load_llama<double>(cpu, folder.path);
  BOOST_TEST(model.config().head_dim == 24);
  BOOST_TEST(model.config().qkv_bias);
  // The embedding has more than a million numbers: drawn anew, then the first again.
  const io::safetensors_file file(folder.path / "model.safetensors");
  const auto deviation = [&](const char* name, double mean) {
    const auto x = file.at(name).values<float>();
    double sum = 0;
    for (const float each : x) sum += (each - mean) * (each - mean);
    return std::sqrt(sum / static_cast<double>(x.size()));
  };
  BOOST_TEST(deviation("model.embed_tokens.weight", 0) * std::sqrt(120.0) == 1,
             boost::test_tools::tolerance(0.01));
  BOOST_TEST(deviation("model.layers.1.mlp.down_proj.weight", 0) * std::sqrt(130.0) == 1,
             boost::test_tools::tolerance(0.05));
  BOOST_TEST(deviation("model.layers.1.self_attn.q_proj.bias", 0) == 1, boost::test_tools::tolerance(0.3));
  BOOST_TEST(deviation("model.norm.weight", 1) == 0.2, boost::test_tools::tolerance(0.3));
  const auto ids = some_ids(14, shape.vocabulary);
  for (const double x : hidden_of(model, cpu, {2, 7}, ids)) BOOST_TEST(std::isfinite(x));
  BOOST_CHECK_EXCEPTION(
      write_random_llama(folder.path, {.vocabulary = 9, .width = 4, .layers = 1, .heads = 3, .kv_heads = 2},
                         dtype::f32, 1),
      error, says("write_random_llama: vocabulary 9, width 4"));
}

}  // namespace distil_xlstm
