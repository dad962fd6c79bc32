#define BOOST_TEST_MODULE llama
#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <thread>

#include <unistd.h>

#include <distil_xlstm/device/cpu_attention.hpp>
#include <distil_xlstm/model/llama.hpp>
#include <distil_xlstm/testing/gradcheck.hpp>

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
void compare(const fs::path& folder, double limit) {
  device::cpu cpu(2);
  const auto model = teacher<T>::load(cpu, folder);
  const io::safetensors_file expected(folder / "expected.safetensors");
  const auto& info = expected.at("ids");
  const auto ids = info.template values<std::int32_t>();
  const sequence_view seq{info.shape[0], info.shape[1]};
  std::vector<T> hidden(static_cast<std::size_t>(seq.rows() * model.width()));
  const matrix_view<T> last(hidden.data(), seq.rows(), model.width());
  index seen = 0;
  const auto check = [&](const std::string& name, const T* got, index n) {
    const auto want = expected.at(name).template values<double>();
    BOOST_REQUIRE(static_cast<index>(want.size()) == n);
    BOOST_TEST_CONTEXT(folder.filename().string() << " " << name)
    BOOST_TEST(testing::relative_error(got, want.data(), n) <= limit);
  };
  model.forward(cpu, seq, ids.data(), last, [&](index layer, matrix_view<const T> h) {
    BOOST_TEST(layer == seen++);
    check(layer == model.config().layers ? "last_hidden" : "hidden." + std::to_string(layer), h.data, h.size());
  });
  BOOST_TEST(seen == model.config().layers + 1);
  std::vector<T> memory(static_cast<std::size_t>(seq.rows() * model.vocabulary()));
  const matrix_view<T> logits(memory.data(), seq.rows(), model.vocabulary());
  gemm(cpu, matrix_view<const T>(last), transposed(model.head()), logits);
  check("logits", logits.data, logits.size());
}

std::vector<fs::path> folders() {
  std::vector<fs::path> out;
  for (const auto& f : fs::directory_iterator(golden("")))
    if (fs::exists(f.path() / "expected.safetensors")) out.push_back(f.path());
  std::sort(out.begin(), out.end());
  BOOST_REQUIRE(out.size() >= 5);
  return out;
}

/// Writes a Hugging Face folder's model as llama.cpp's converter would; the embedding in Q8_0 where asked.
void write_gguf(const fs::path& folder, const fs::path& to, bool quantised) {
  const auto c = read_llama_config(io::read_json_file(folder / "config.json"), "config.json");
  const io::safetensors_file file(folder / "model.safetensors");
  std::string head, data;
  std::uint64_t keys = 0, tensors = 0;
  const auto put = [](std::string& s, auto x) { s.append(reinterpret_cast<const char*>(&x), sizeof x); };
  const auto text = [&](std::string& s, const std::string& t) { put(s, std::uint64_t(t.size())), s += t; };
  const auto number = [&](const std::string& key, index n) {
    text(head, key), put(head, std::uint32_t(4)), put(head, std::uint32_t(n)), ++keys;
  };
  const auto real = [&](const std::string& key, double x) {
    text(head, key), put(head, std::uint32_t(12)), put(head, x), ++keys;
  };
  const std::string a = c.model_type + ".";
  text(head, "general.architecture"), put(head, std::uint32_t(8)), text(head, c.model_type), ++keys;
  number(a + "embedding_length", c.width), number(a + "block_count", c.layers);
  number(a + "attention.head_count", c.heads), number(a + "attention.head_count_kv", c.kv_heads);
  number(a + "feed_forward_length", c.intermediate), number(a + "context_length", c.context);
  number(a + "attention.key_length", c.head_dim), number(a + "attention.value_length", c.head_dim);
  real(a + "attention.layer_norm_rms_epsilon", c.epsilon), real(a + "rope.freq_base", c.theta);
  const auto tensor = [&](const std::string& name, const std::string& hf, bool pairs = false, bool q8 = false) {
    const auto& t = file.at(hf);
    text(head, name), put(head, std::uint32_t(t.shape.size()));
    for (std::size_t i = t.shape.size(); i-- > 0;) put(head, std::uint64_t(t.shape[i]));
    put(head, std::uint32_t(q8 ? 8 : 0)), put(head, std::uint64_t(data.size())), ++tensors;
    auto v = t.template values<float>();
    if (q8) {
      for (std::size_t i = 0; i < v.size(); i += 32) {
        put(data, std::uint16_t(0x1c00));  // 2^-8
        for (std::size_t j = 0; j < 32; ++j)
          put(data, static_cast<std::int8_t>(std::clamp(std::lround(v[i + j] * 256), -127l, 127l)));
      }
    } else {
      const std::size_t cols = static_cast<std::size_t>(t.shape.back()), half = static_cast<std::size_t>(c.head_dim / 2);
      for (std::size_t r = 0; r < v.size() / cols; ++r) {
        // Row 2 i + j of a head is row j * half + i of Hugging Face's.
        const std::size_t w = r % (2 * half), from = pairs ? r - w + (w % 2) * half + w / 2 : r;
        data.append(reinterpret_cast<const char*>(v.data() + from * cols), cols * sizeof(float));
      }
    }
    data.resize((data.size() + 31) / 32 * 32);
  };
  tensor("token_embd.weight", "model.embed_tokens.weight", false, quantised);
  tensor("output_norm.weight", "model.norm.weight");
  if (!c.tied) tensor("output.weight", "lm_head.weight");
  const bool pairs = c.model_type == "llama";
  for (index i = 0; i < c.layers; ++i) {
    const std::string g = "blk." + std::to_string(i) + ".", h = "model.layers." + std::to_string(i) + ".";
    tensor(g + "attn_norm.weight", h + "input_layernorm.weight");
    tensor(g + "ffn_norm.weight", h + "post_attention_layernorm.weight");
    for (const char* x : {"q", "k", "v"}) {
      tensor(g + "attn_" + x + ".weight", h + "self_attn." + x + "_proj.weight", pairs && *x != 'v');
      if (c.qkv_bias) tensor(g + "attn_" + x + ".bias", h + "self_attn." + x + "_proj.bias");
    }
    tensor(g + "attn_output.weight", h + "self_attn.o_proj.weight");
    for (const char* x : {"gate", "up", "down"})
      tensor(g + "ffn_" + x + ".weight", h + "mlp." + x + "_proj.weight");
  }
  std::string all = "GGUF";
  put(all, std::uint32_t(3)), put(all, tensors), put(all, keys);
  all += head;
  all.resize((all.size() + 31) / 32 * 32);
  std::ofstream(to, std::ios::binary) << all << data;
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

BOOST_AUTO_TEST_CASE(teachers_in_double) {
  for (const auto& f : folders()) compare<double>(f, 1e-10);
}
BOOST_AUTO_TEST_CASE(teachers_in_float) {
  for (const auto& f : folders()) compare<float>(f, 1e-5);
}

BOOST_AUTO_TEST_CASE(a_gguf_file_is_the_same_model) {
  const temporary_folder folder;
  device::cpu cpu(2);
  for (const char* name : {"llama_rope_parameters", "llama_bf16", "qwen2_rope_theta", "qwen2_tied"}) {
    const auto file = folder.path / "model.gguf";
    write_gguf(golden(name), file, false);
    const auto a = teacher<double>::load(cpu, golden(name)), b = teacher<double>::load(cpu, file);
    const auto ids = some_ids(26, a.vocabulary());
    BOOST_TEST(apart(hidden_of(b, cpu, {2, 13}, ids), hidden_of(a, cpu, {2, 13}, ids)) <= 1e-14);
    BOOST_TEST(b.config().tied == a.config().tied);

    write_gguf(golden(name), file, true);
    const auto wide = teacher<float>::load(cpu, file), stored = teacher<float>::load(cpu, file, {false});
    BOOST_TEST((wide.embedding().kind == element::f32));
    BOOST_TEST((stored.embedding().kind == element::q8_0));
    BOOST_TEST((a.config().tied == (wide.head().data == wide.embedding().data)));
    BOOST_TEST(apart(hidden_of(stored, cpu, {2, 13}, ids), hidden_of(wide, cpu, {2, 13}, ids)) <= 1e-6);
  }
}

BOOST_AUTO_TEST_CASE(prefill_and_steps_are_the_whole) {
  device::cpu cpu(2);
  for (const char* name : {"llama_sharded_head_dim", "qwen2_tied"}) {
    const auto model = teacher<double>::load(cpu, golden(name));
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
        worst = std::max(worst, testing::relative_error(out.data() + b * n * d, whole.data() + (b * time + from) * d,
                                                        n * d));
      return worst;
    };
    BOOST_TEST(run(state, 0, 11) <= 1e-13);
    auto fork = state;
    for (index t = 11; t < time; ++t) BOOST_TEST(run(state, t, 1) <= 1e-13);
    BOOST_TEST(state.position(1) == time);
    BOOST_CHECK_EXCEPTION(run(state, 0, 1), error, says("the capacity of its state is 23"));
    BOOST_TEST(state.position(1) == time);
    BOOST_TEST(fork.position(0) == 11);
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
    BOOST_TEST(mixed.position(0) == 0);
    BOOST_TEST(run(mixed, 0, 7) <= 1e-13);
  }
}

BOOST_AUTO_TEST_CASE(documents_are_apart) {
  device::cpu cpu(2);
  const auto model = teacher<float>::load(cpu, golden("llama_bf16"));
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
  const auto model = teacher<float>::load(cpu, golden("qwen2_rope_theta"));
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
  refused("rope_parameters", {{"rope_type", "llama3"}, {"rope_theta", 1e4}}, "rope type 'llama3' is not supported");
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
  for (const char* part :
       {"lm_head.weight is missing", "model.layers.0.mlp.down_proj.weight has shape [32, 48] instead of [32, 40]",
        "model.layers.1.self_attn.q_proj.weight is not used"})
    BOOST_CHECK_EXCEPTION(teacher<float>::load(cpu, folder.path), error, says(part));
  fs::remove(folder.path / "model.safetensors");
  io::write_text_atomically(folder.path / "model.safetensors.index.json",
                            R"({"weight_map": {"a": "../model.safetensors"}})");
  BOOST_CHECK_EXCEPTION(teacher<float>::load(cpu, folder.path), error, says("is not the name of a file"));
  fs::remove(folder.path / "model.safetensors.index.json");
  BOOST_CHECK_EXCEPTION(teacher<float>::load(cpu, folder.path), error, says("model.safetensors: cannot open"));
}

}  // namespace distil_xlstm
