#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <span>
#include <thread>

#include <distil_xlstm/device/cpu.hpp>
#include <distil_xlstm/io/atomic_file.hpp>
#include <distil_xlstm/io/gguf.hpp>
#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/model/load_llama.hpp>
#include <distil_xlstm/model/random_llama.hpp>
#include <distil_xlstm/testing/tolerances.hpp>

#include "../comparison/teacher.hpp"
#include "../refused.hpp"
#include "../temporary_folder.hpp"
#include "write_gguf.hpp"

namespace distil_xlstm {
namespace {

namespace fs = std::filesystem;
using namespace std::string_literals;
template <class T>
using teacher = llama<T, device::cpu>;

fs::path golden(const std::string& name) { return fs::path(DISTIL_XLSTM_TEST_DATA) / "golden/teacher" / name; }

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
  auto state = model.make_state(cpu, seq.batch);
  model.forward(cpu, seq, ids.data(), state, {out.data(), seq.rows(), model.width()});
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
  BOOST_REQUIRE(folders.size() >= 14);
  for (const auto& folder : folders) {
    const auto errors = testing::teacher_errors<T>(cpu, folder);
    BOOST_TEST(errors.size() > 3u);
    for (const auto& e : errors)
      BOOST_TEST(e.error <= testing::tolerance<T>::reference_forward,
                 folder.filename().string() << " " << e.name << ": off by " << e.error);
  }
}

io::json small_config() { return io::read_json_file(golden("llama_rope_parameters") / "config.json"); }

}  // namespace

BOOST_AUTO_TEST_CASE(teachers_in_double) { compare<double>(); }
BOOST_AUTO_TEST_CASE(teachers_in_float) { compare<float>(); }

BOOST_AUTO_TEST_CASE(gguf_files_of_the_reference) {
  device::cpu cpu(2);
  index files = 0;
  for (const auto& entry : fs::directory_iterator(fs::path(DISTIL_XLSTM_TEST_DATA) / "golden/gguf/teacher")) {
    const auto name = entry.path().stem().string();
    for (const auto& e : testing::teacher_errors<double>(cpu, golden(name), entry.path()))
      BOOST_TEST(e.error <= testing::tolerance<double>::reference_forward,
                 name << " " << e.name << ": off by " << e.error);
    ++files;
  }
  BOOST_TEST(files == 5);
}

BOOST_AUTO_TEST_CASE(a_gguf_file_is_the_same_model) {
  const temporary_folder folder;
  device::cpu cpu(2);
  for (const auto& name : testing::golden_models(golden(""))) {
    if (!fs::exists(name / "model.safetensors")) continue;
    BOOST_TEST_CONTEXT(name.filename().string()) {
      const auto file = folder.path / "model.gguf";
      // A GGUF file does not say which layers have positions: of SmolLM3 each fourth has none.
      const auto a = load_llama<double>(cpu, name);
      if (a.config().rotates.size() == 2) continue;
      const auto b = (testing::write_gguf(name, file, false), load_llama<double>(cpu, file));
      BOOST_TEST((a.config().scaling.type == b.config().scaling.type));
      BOOST_TEST(a.config().scaling.factor == b.config().scaling.factor);
      const auto ids = some_ids(26, a.vocabulary());
      BOOST_TEST(apart(hidden_of(b, cpu, {2, 13}, ids), hidden_of(a, cpu, {2, 13}, ids)) <= 1e-14);
      BOOST_TEST(b.config().tied == a.config().tied);

      testing::write_gguf(name, file, true);
      const auto wide = load_llama<float>(cpu, file), stored = load_llama<float>(cpu, file, {false});
      BOOST_TEST((wide.embedding().dtype == dtype::f32));
      BOOST_TEST((stored.embedding().dtype == dtype::q8_0));
      BOOST_TEST((a.config().tied == (wide.head().data == wide.embedding().data)));
      BOOST_TEST(apart(hidden_of(stored, cpu, {2, 13}, ids), hidden_of(wide, cpu, {2, 13}, ids)) <= 1e-6);
    }
  }
}

BOOST_AUTO_TEST_CASE(the_scaling_is_found_in_the_divisors) {
  using kind = rope_scaling::kind;
  const struct {
    double theta;
    index head_dim;
    rope_scaling scaling;
    bool exact = true;  ///< what is found is what was written, with `original` at 8192
  } table[] = {
      {5e5, 128, {kind::llama3, 8, 1, 4, 8192}},  // Llama 3.1
      {5e5, 64, {kind::llama3, 32, 1, 4, 8192}},  // Llama 3.2
      {1e4, 80, {kind::llama3, 16, 2, 8, 8192}},
      {5e5, 128, {kind::llama3, 8, 64, 256, 8192}},
      {1e6, 96, {kind::llama3, 4.5, 1.25, 3.7, 8192}, false},
      {1e4, 8, {kind::llama3, 8, 1, 16, 8192}, false},    // one pair between
      {1e4, 8, {kind::llama3, 8, 20, 100, 8192}, false},  // none
      {1e4, 8, {kind::llama3, 8, 0.1, 4, 64}, false},     // none is slowed wholly
      {1e4, 8, {kind::llama3, 8, 0.5, 40, 64}, false},    // each is slowed
      {1e4, 64, {kind::linear, 4}},
      {1e4, 64, {}},
  };
  for (const auto& t : table) {
    std::vector<double> divisors;
    if (t.scaling.type == kind::llama3)
      for (const float x : testing::llama3_divisors(t.theta, t.head_dim, t.scaling)) divisors.push_back(x);
    else
      divisors.assign(static_cast<std::size_t>(t.head_dim / 2), t.scaling.factor);
    const auto found = find_rope_scaling(t.theta, divisors);
    BOOST_TEST_CONTEXT("factor " << t.scaling.factor << ", from " << t.scaling.low << " to "
                                 << t.scaling.high) {
      BOOST_REQUIRE(found.has_value());
      if (t.exact) BOOST_TEST((*found == t.scaling));
      for (std::size_t i = 0; i < divisors.size(); ++i) {
        const double f = std::pow(t.theta, -2.0 * static_cast<double>(i) / static_cast<double>(t.head_dim));
        BOOST_TEST(std::abs(found->divisor(f) / t.scaling.divisor(f) - 1) <= 1e-5);
      }
    }
  }
  const double infinite = std::numeric_limits<double>::infinity(), none = std::nan("");
  for (const std::vector<double>& wrong : {std::vector<double>{},
                                           {1, 8, 1, 8},
                                           {8, 8, 1, 1},
                                           {1, 2, 3, 4},
                                           {1, 1, 8, 5},
                                           {1, 1, 1, 0},
                                           {1, 1, 1, -1},
                                           {1, 1, 1, none},
                                           {none, 1, 1, 1},
                                           {1, 1, 8, infinite},
                                           {0.5, 0.5, 1, 1},
                                           {0, 0, 0, 0}})
    BOOST_TEST(!find_rope_scaling(1e4, wrong).has_value());
}

BOOST_AUTO_TEST_CASE(prefill_and_steps_are_the_whole) {
  device::cpu cpu(2);
  for (const char* name :
       {"llama_sharded_head_dim", "qwen2_tied", "llama3_scaling", "qwen3_bias", "smollm3", "smollm3_first"}) {
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
  for (const char* name : {"llama_bf16", "qwen3", "smollm3_first", "mistral_window"}) {
    const auto model = load_llama<float>(cpu, golden(name));
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
}

BOOST_AUTO_TEST_CASE(a_window_is_a_state_of_one_size) {
  const temporary_folder folder;
  device::cpu cpu(2);
  const auto model = load_llama<double>(cpu, golden("mistral_window"));
  BOOST_TEST(model.config().window == 4);
  BOOST_TEST(!model.has_cache());
  const index time = 23, d = model.width();
  const auto ids = some_ids(2 * time, model.vocabulary());
  const auto whole = hidden_of(model, cpu, {2, time}, ids);
  auto state = model.make_state(cpu, 2);
  for (index t = 0, n = 7; t < time; t += n, n = 1) {
    std::vector<std::int32_t> part;
    for (index b = 0; b < 2; ++b)
      for (index i = t; i < t + n; ++i) part.push_back(ids[static_cast<std::size_t>(b * time + i)]);
    std::vector<double> out(static_cast<std::size_t>(2 * n * d));
    model.forward(cpu, {2, n}, part.data(), state, {out.data(), 2 * n, d});
    for (index b = 0; b < 2; ++b)
      BOOST_TEST(testing::relative_error(out.data() + b * n * d, whole.data() + (b * time + t) * d, n * d) <=
                 1e-13);
  }
  // Of a text that the window holds it is the model without one, beyond it another.
  io::json c = io::read_json_file(golden("mistral_window") / "config.json");
  const auto open = [&](io::json window) {
    c["sliding_window"] = std::move(window);
    io::write_text_atomically(folder.path / "config.json", c.dump());
    fs::copy_file(golden("mistral_window") / "model.safetensors", folder.path / "model.safetensors",
                  fs::copy_options::overwrite_existing);
    return load_llama<double>(cpu, folder.path);
  };
  const auto all = open(nullptr), seen = open(64), wide = open(63);
  BOOST_TEST(seen.config().window == 0);  // the context is no longer
  BOOST_TEST(wide.config().window == 63);
  c.erase("sliding_window");
  c["max_position_embeddings"] = 8192;
  BOOST_TEST(read_llama_config(c, "config.json").window == 4096);
  const auto reference = hidden_of(all, cpu, {2, time}, ids);
  BOOST_TEST((hidden_of(seen, cpu, {2, time}, ids) == reference));
  BOOST_TEST(apart(hidden_of(wide, cpu, {2, time}, ids), reference) <= 1e-14);
  for (index b = 0; b < 2; ++b) {
    BOOST_TEST(testing::relative_error(whole.data() + b * time * d, reference.data() + b * time * d, 4 * d) <=
               1e-14);
    BOOST_TEST(testing::relative_error(whole.data() + (b * time + 4) * d, reference.data() + (b * time + 4) * d,
                                       d) >= 1e-3);
  }
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
  io::json config = small_config();
  const auto refused = [&](const std::string& key, io::json value, const std::string& message) {
    io::json c = config;
    c[key] = std::move(value);
    BOOST_CHECK_EXCEPTION(read_llama_config(c, "config.json"), error, says(message));
  };
  for (const char* other : {"gemma2", "mixtral", "ministral", "mistral3", "qwen2_moe", "qwen3_moe",
                            "qwen3_next", "qwen2_vl", "llama4", "phi3", "Llama", ""})
    refused("model_type", other,
            "model_type '"s + other + "' is not supported (llama, mistral, qwen2, qwen3 and smollm3 are)");
  const io::json llama3 = {{"rope_type", "llama3"},
                           {"factor", 8},
                           {"low_freq_factor", 1},
                           {"high_freq_factor", 4},
                           {"original_max_position_embeddings", 8192}};
  const auto with = [&](const char* key, io::json value) {
    io::json c = llama3;
    c[key] = std::move(value);
    return c;
  };
  refused("rope_scaling", llama3, "rope_parameters and rope_scaling differ");
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    const std::string at = "config.json: "s + key;
    config = small_config();
    config.erase("rope_parameters");
    for (const char* type : {"yarn", "dynamic", "longrope", "su", "mrope", "proportional", ""})
      refused(key, {{"rope_type", type}, {"factor", 2}}, at + ": rope type '" + type + "' is not supported");
    refused(key, {{"type", "yarn"}, {"factor", 2}}, at + ": rope type 'yarn' is not supported");
    for (const char* field :
         {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}) {
      io::json c = llama3;
      c.erase(field);
      refused(key, c, at + ": " + field + " is missing");
      refused(key, with(field, "8"), at + ": " + field + " must be a number");
      refused(key, with(field, 0), "is not possible");
    }
    refused(key, with("low_freq_factor", 4), "from 4 to 4 turns over 8192 tokens is not possible");
    refused(key, with("attention_factor", 1), at + ": attention_factor is not supported");
    refused(key, {{"type", "linear"}}, at + ": factor is missing");
    refused(key, {{"type", "linear"}, {"factor", -2}}, "is not possible");
    refused(key, {{"type", "linear"}, {"factor", 2}, {"low_freq_factor", 1}},
            at + ": low_freq_factor is not supported");
    refused(key, {{"factor", 2}}, at + ": factor is not supported");
    refused(key, with("partial_rotary_factor", 0.5), at + ": partial_rotary_factor other than 1");
    refused(key, 8, at + " must be an object");
  }
  config = small_config();
  refused("use_sliding_window", true, "use_sliding_window true is not supported");
  refused("hidden_act", "gelu", "hidden_act 'gelu' is not supported");
  refused("no_rope_layers", {1, 1}, "no_rope_layers is not supported for llama");
  const auto of_family = [&](const char* folder, const std::string& key, io::json value,
                             const std::string& message) {
    config = io::read_json_file(golden(folder) / "config.json");
    refused(key, std::move(value), message);
    config = small_config();
  };
  for (const char* folder : {"mistral", "qwen2_tied"})
    of_family(folder, "attention_bias", true, "attention_bias true is not supported");
  for (const char* folder : {"qwen2_tied", "qwen3", "smollm3", "mistral"}) {
    of_family(folder, "use_sliding_window", true, "use_sliding_window true is not supported");
    of_family(folder, "mlp_bias", true, "mlp_bias true is not supported");
    of_family(folder, "layer_types", {"full_attention", "sliding_attention"},
              "'sliding_attention' is not supported");
    of_family(folder, "hidden_act", "relu", "hidden_act 'relu' is not supported");
  }
  of_family("qwen3", "head_dim", 7, "a head of 7 has no pairs");
  of_family("qwen3", "attention_bias", 1, "attention_bias must be true or false");
  of_family("smollm3", "no_rope_layers", {1, 1, 1}, "no_rope_layers speaks of 3 of 4 layers");
  of_family("smollm3", "no_rope_layers", {1, 1, 2, 0}, "no_rope_layers: 2 is not supported (0 and 1 are)");
  of_family("smollm3", "no_rope_layers", {true, true, true, true}, "no_rope_layers must be an integer");
  of_family("smollm3", "no_rope_layer_interval", 0, "no_rope_layer_interval 0 must be positive");
  of_family("smollm3_interval", "num_hidden_layers", index{1} << 40, "is too large");
  of_family("smollm3_interval", "num_hidden_layers", -1, "must be positive");
  of_family("mistral", "sliding_window", 0, "sliding_window 0 must be positive");
  of_family("mistral", "sliding_window", -1, "sliding_window -1 must be positive");
  of_family("mistral_window", "layer_types", {"full_attention", "full_attention"},
            "layer_types beside sliding_window 4 is not supported");
  of_family("mistral", "no_rope_layers", {1, 1}, "no_rope_layers is not supported for mistral");
  refused("mlp_bias", true, "mlp_bias true is not supported");
  refused("quantization_config", {{"bits", 4}}, "quantization_config is not supported");
  refused("num_key_value_heads", 3, "3 key heads do not divide the 4 heads");
  refused("hidden_size", "wide", "hidden_size must be an integer");
  refused("head_dim", 7, "a head of 7 has no pairs");
  refused("num_hidden_layers", -1, "must be positive");
}

BOOST_AUTO_TEST_CASE(what_a_configuration_leaves_out) {
  const auto read = [](const char* folder, const char* key, io::json value = nullptr) {
    io::json c = io::read_json_file(golden(folder) / "config.json");
    c.erase(key);
    if (!value.is_null()) c[key] = std::move(value);
    return read_llama_config(c, "config.json");
  };
  const std::vector<bool> fourth = {true, true, true, false};
  BOOST_TEST(read("qwen3", "head_dim").head_dim == 128);
  BOOST_TEST(read("mistral", "head_dim").head_dim == 8);
  BOOST_TEST((read("smollm3", "no_rope_layers").rotates == fourth));
  BOOST_TEST((read("smollm3", "no_rope_layers", {0, 1, 1, 0, 0, 1}).rotates ==
              std::vector<bool>{false, true, true, false}));
  BOOST_TEST((read("smollm3_interval", "no_rope_layer_interval").rotates == std::vector<bool>{true, true}));
  BOOST_TEST(read("smollm3", "tie_word_embeddings").tied);
  BOOST_TEST(!read("qwen3", "tie_word_embeddings").tied);
  BOOST_TEST(read("smollm3", "rope_parameters").theta == 2e6);
  BOOST_TEST(read("qwen3", "rope_parameters").theta == 1e4);
  BOOST_TEST(read("mistral", "sliding_window").window == 0);  // 4096 of a context of 64
  for (const char* folder : {"llama_rope_parameters", "qwen3", "smollm3"}) {
    const auto biased = read(folder, "attention_bias", true);
    BOOST_TEST((biased.qkv_bias && biased.output_bias));
    BOOST_TEST(!read(folder, "attention_bias").qkv_bias);
  }
}

BOOST_AUTO_TEST_CASE(families_of_gguf_files) {
  const temporary_folder folder;
  device::cpu cpu(1);
  const auto file = folder.path / "model.gguf";
  const auto with = [&](const char* name, const std::function<void(testing::gguf_builder&)>& more) {
    testing::write_gguf(golden(name), file, false, nullptr, more);
    return load_llama<double>(cpu, file).config();
  };
  BOOST_TEST((with("smollm3", {}).rotates == std::vector<bool>{true, true, true, false}));
  const auto qwen3 = with("qwen3_bias", {});
  BOOST_TEST((qwen3.head_norms && qwen3.qkv_bias && qwen3.output_bias && qwen3.head_dim == 16));
  BOOST_TEST(!with("qwen3", {}).qkv_bias);
  BOOST_TEST(with("mistral", {}).model_type == "llama");
  BOOST_TEST(with("mistral_window", {}).window == 4);
  const auto window = [](testing::gguf_builder& f) { f.number("llama.attention.sliding_window", 64); };
  BOOST_TEST(with("llama_rope_parameters", window).window == 0);
  const auto refused = [&](const char* name, const std::string& message,
                           const std::function<void(testing::gguf_builder&)>& more) {
    BOOST_CHECK_EXCEPTION(with(name, more), error, says(message));
  };
  BOOST_CHECK_EXCEPTION(
      [&] {
        testing::gguf_builder f;
        f.string("general.architecture", "mistral");
        const std::string bytes = f.bytes();
        read_llama_config(
            io::gguf_file(std::as_bytes(std::span<const char>(bytes.data(), bytes.size())), "input"));
      }(),
      error, says("general.architecture 'mistral' is not supported (Mistral's is llama)"));
  for (const std::string name : {"qwen3", "smollm3"})
    refused(name.c_str(), name + ".attention.sliding_window of 64 is not supported",
            [&](auto& f) { f.number(name + ".attention.sliding_window", 64); });
  refused("llama_rope_parameters", "llama.expert_count of 8 is not supported",
          [](auto& f) { f.number("llama.expert_count", 8); });
  refused("llama_rope_parameters", "blk.0.attn_q_norm.weight is not used", [](auto& f) {
    f.tensor("blk.0.attn_q_norm.weight", {1, 1, 1, 1, 1, 1, 1, 1});
  });
}

BOOST_AUTO_TEST_CASE(what_a_gguf_file_says_of_positions) {
  const temporary_folder folder;
  device::cpu cpu(1);
  const auto file = folder.path / "model.gguf";
  const auto with = [&](const std::function<void(testing::gguf_builder&)>& more) {
    testing::write_gguf(golden("llama_rope_parameters"), file, false, nullptr, more);
    return load_llama<double>(cpu, file).config().scaling;
  };
  using kind = rope_scaling::kind;
  const rope_scaling linear{kind::linear, 2.5}, none;
  const std::string factor = "llama.rope.scaling.factor", type = "llama.rope.scaling.type";
  BOOST_TEST((with({}) == none));
  BOOST_TEST((with([&](auto& f) { f.real(factor, 2.5); }) == linear));
  BOOST_TEST((with([&](auto& f) { f.string(type, "linear"), f.real(factor, 2.5); }) == linear));
  BOOST_TEST((with([&](auto& f) { f.real("llama.rope.scale_linear", 2.5); }) == linear));
  BOOST_TEST((with([&](auto& f) { f.string(type, "none"), f.real(factor, 2.5); }) == none));
  BOOST_TEST((with([&](auto& f) { f.string(type, "linear"); }) == none));
  BOOST_TEST((with([&](auto& f) { f.real(factor, 0); }) == none));
  BOOST_TEST((with([&](auto& f) { f.real(factor, 1); }) == none));
  BOOST_TEST((with([&](auto& f) { f.tensor("rope_freqs.weight", {1, 1, 1, 1}); }) == none));
  BOOST_TEST((with([&](auto& f) {
                f.tensor("rope_freqs.weight", {3, 3, 3, 3});
              }) == rope_scaling{kind::linear, 3}));
  const auto refused = [&](const std::string& message,
                           const std::function<void(testing::gguf_builder&)>& more) {
    BOOST_CHECK_EXCEPTION(with(more), error, says(message));
  };
  for (const std::string other : {"yarn", "longrope", "dynamic", ""})
    refused("llama.rope.scaling.type '" + other + "' is not supported",
            [&](auto& f) { f.string(type, other), f.real(factor, 2); });
  refused("rotary scaling by the factor -1", [&](auto& f) { f.real(factor, -1); });
  refused("rotary scaling by the factor nan", [&](auto& f) { f.real(factor, std::nan("")); });
  refused("llama.rope.scaling.attn_factor 1.5 is not supported",
          [&](auto& f) { f.real("llama.rope.scaling.attn_factor", 1.5); });
  refused("rope_freqs.weight is F32 [3] instead of F32 [4]", [&](auto& f) {
    f.tensor("rope_freqs.weight", {1, 1, 8});
  });
  refused("rope_freqs.weight is F16 [4] instead of F32 [4]",
          [&](auto& f) { f.tensor("rope_freqs.weight", {4}, 1, std::string(8, 0)); });
  refused("the numbers of tensor rope_freqs.weight are those of no scaling that is supported", [&](auto& f) {
    f.tensor("rope_freqs.weight", {1, 8, 1, 8});
  });
  refused("both llama.rope.scaling.factor and the tensor rope_freqs.weight", [&](auto& f) {
    f.real(factor, 2), f.tensor("rope_freqs.weight", {1, 1, 8, 8});
  });
  for (const char* name : {"rope_factors_long.weight", "rope_factors_short.weight"})
    refused(name + " is not used"s, [&](auto& f) { f.tensor(name, {1, 1, 1, 1}); });
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
  const std::vector<llama_config> others = {
      {.model_type = "llama", .scaling = {rope_scaling::kind::llama3, 8, 1, 4, 64}, .qkv_bias = true},
      {.model_type = "qwen3", .qkv_bias = true},
      {.model_type = "qwen3", .scaling = {rope_scaling::kind::linear, 3}},
      {.model_type = "smollm3", .rotates = {false, true}},
      {.model_type = "mistral", .window = 5},
      {.model_type = "mistral", .context = 40}};
  for (llama_config c : others) {
    c.vocabulary = 90, c.width = 24, c.layers = 2, c.heads = 4, c.kv_heads = 2, c.head_dim = 8,
    c.intermediate = 20;
    write_random_llama(folder.path, c, dtype::bf16, 5);
    const auto one = load_llama<double>(cpu, folder.path);
    BOOST_TEST_CONTEXT(c.model_type) {
      BOOST_TEST((one.config().scaling == c.scaling));
      BOOST_TEST(one.config().qkv_bias == c.qkv_bias);
      BOOST_TEST(one.config().output_bias == c.qkv_bias);
      BOOST_TEST(one.config().head_norms == (c.model_type == "qwen3"));
      BOOST_TEST((one.config().rotates == c.rotates));
      BOOST_TEST(one.config().window == c.window);
      for (const double x : hidden_of(one, cpu, {2, 7}, some_ids(14, 90))) BOOST_TEST(std::isfinite(x));
    }
  }
  BOOST_CHECK_EXCEPTION(write_random_llama(folder.path, {.model_type = "gpt2"}, dtype::f32, 1), error,
                        says("model_type gpt2 is not supported (llama, mistral,"));
  BOOST_CHECK_EXCEPTION(
      write_random_llama(folder.path, {.vocabulary = 9, .width = 4, .layers = 1, .heads = 3, .kv_heads = 2},
                         dtype::f32, 1),
      error, says("write_random_llama: vocabulary 9, width 4"));
}

}  // namespace distil_xlstm
