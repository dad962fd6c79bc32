#include <boost/test/unit_test.hpp>

#include <unistd.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <variant>

#include <distil_xlstm/device/cpu.hpp>
#include <distil_xlstm/model/decoder.hpp>
#include <distil_xlstm/model/load_language_model.hpp>
#include <distil_xlstm/model/reader.hpp>
#include <distil_xlstm/testing/tolerances.hpp>

#include "../comparison/linearised.hpp"
#include "../refused.hpp"

namespace distil_xlstm {
namespace {

namespace fs = std::filesystem;
fs::path golden() { return fs::path(DISTIL_XLSTM_TEST_DATA) / "golden/linearised"; }

template <class T>
void compare() {
  device::cpu cpu(2);
  const auto folders = testing::golden_models(golden());
  BOOST_REQUIRE(folders.size() == 2u);
  for (const auto& folder : folders)
    for (const auto& e : testing::linearised_errors<T>(cpu, folder)) {
      // Of float, gradients of weights near 1: no condition is needed.
      const double limit = e.name == "logits" ? testing::tolerance<T>::reference_forward
                                              : testing::tolerance<T>::reference_gradient(0);
      BOOST_TEST(e.error <= limit, folder.filename().string() << " " << e.name << ": off by " << e.error);
    }
}

linearised_config small() {
  linearised_config c;
  c.vocabulary = 11, c.width = 8, c.layers = 2, c.heads = 4, c.kv_heads = 2, c.head_dim = 4,
  c.intermediate = 12;
  c.mixers = {mixer_kind::hybrid, mixer_kind::memory}, c.window = 5, c.sinks = 2, c.features = 4;
  return c;
}

}  // namespace

BOOST_AUTO_TEST_CASE(the_reference_in_double) { compare<double>(); }
BOOST_AUTO_TEST_CASE(the_reference_in_float) { compare<float>(); }

/// Eight steps of each stage: losses, gradient norms, which tensors move and how fast, final weights.
template <class T>
void compare_steps() {
  using limits = testing::tolerance<T>;
  device::cpu cpu(2);
  const auto errors = testing::linearise_errors<T>(cpu, golden().parent_path() / "linearise");
  BOOST_TEST(errors.size() > 100u);
  for (const auto& e : errors) {
    const double limit = e.name.find(" final ") != e.name.npos ? limits::trained_weights
                         : e.name.starts_with("align")         ? limits::alignment_steps
                                                               : limits::training_steps;
    BOOST_TEST(e.error <= limit, e.name << ": off by " << e.error << ", at most " << limit);
  }
}
BOOST_AUTO_TEST_CASE(stages_of_the_reference_in_double) { compare_steps<double>(); }
BOOST_AUTO_TEST_CASE(stages_of_the_reference_in_float) { compare_steps<float>(); }

BOOST_AUTO_TEST_CASE(all_of_it_is_trained_with_a_tied_head) {
  // Central differences through embedding, stack and the same matrix as head.
  device::cpu cpu(1);
  linearised_config c = small();
  c.tied = true;
  testing::trained_linearised<double, device::cpu> m(cpu, linearised_model<double, device::cpu>(cpu, c));
  auto& weights = m.model.weights();
  rng random(5);
  for (index i = 0; i < weights.size(); ++i)
    weights.data()[i] = (i < m.model.embedding().rows * m.model.width() ? 1 : 0.4) * random.normal();
  const index time = 12;
  std::vector<std::int32_t> ids, start;
  for (index r = 0; r < 2 * time; ++r) {
    ids.push_back(static_cast<std::int32_t>(random.below(11)));
    start.push_back(r % time < 5 ? -1 : 5);
  }
  std::vector<double> w(static_cast<std::size_t>(2 * time * c.vocabulary));
  for (double& x : w) x = random.normal();
  const sequence_view seq{2, time, start.data()};
  m.run(seq, ids.data(), w);
  const auto objective = [&] {
    const auto logits = m.run(seq, ids.data());
    double sum = 0;
    for (std::size_t i = 0; i < w.size(); ++i) sum += w[i] * logits[i];
    return sum;
  };
  const auto check = [&](const std::string& name, double* x, const double* gradient, index n) {
    double worst = 0, largest = 0;
    for (index i = 0; i < n; i += std::max<index>(1, n / 9)) {
      const double keep = x[i], step = 3e-5;
      const auto at = [&](double shift) { return x[i] = keep + shift, objective(); };
      const double slope = (8 * (at(step) - at(-step)) - (at(2 * step) - at(-2 * step))) / (12 * step);
      x[i] = keep;
      worst = std::max(worst, std::abs(slope - gradient[i])), largest = std::max(largest, std::abs(slope));
    }
    BOOST_TEST(worst <= testing::tolerance<double>::gradient_check * largest, name << ": " << worst / largest);
  };
  BOOST_TEST(m.model.names().front().name == "model.embed_tokens.weight");
  for (const auto& e : m.model.names())
    check(e.name, weights.data() + e.offset, m.gradients.data() + e.offset, e.size);
}

BOOST_AUTO_TEST_CASE(a_frozen_model_reads_and_writes_texts) {
  device::cpu cpu(2);
  for (const auto& folder : testing::golden_models(golden())) {
    const auto m = load_language_model<double>(cpu, folder);
    testing::trained_linearised<double, device::cpu> trained(cpu, load_linearised<double>(cpu, folder));
    // Greedily, from prompts of other lengths; what a text reads is what the whole, trained, says of it.
    rng random(8);
    const index time = 40;
    std::vector<std::vector<std::int32_t>> texts;
    for (const index prompt : {1, 3, 11})
      for (texts.emplace_back(); std::ssize(texts.back()) < prompt;)
        texts.back().push_back(static_cast<std::int32_t>(random.below(16)));
    decoder<decltype(m)> beside(cpu, m, {.capacity = 2, .context = time, .part = 4});
    std::map<decltype(beside.join(texts[0])), std::size_t> names;
    for (std::size_t i = 0; i < texts.size(); ++i) names[beside.join(texts[i], {.temperature = 0})] = i;
    while (beside.texts() > 0)
      beside.step([&](auto name, std::int32_t id) {
        auto& text = texts[names.at(name)];
        text.push_back(id);
        return std::ssize(text) < time;
      });
    for (const auto& text : texts) {
      const auto logits = trained.run({1, time}, text.data());
      const index prompt = std::array{1, 3, 11}[static_cast<std::size_t>(&text - texts.data())];
      for (index t = prompt; t < time; ++t) {
        const double* row = logits.data() + (t - 1) * 16;
        BOOST_TEST(static_cast<std::int32_t>(std::max_element(row, row + 16) - row) ==
                   text[static_cast<std::size_t>(t)]);
      }
      // In parts, and token by token.
      for (const index part : {1, 7, 40}) {
        auto state = m.make_state(cpu, 1, time);
        double off = 0, largest = 0;
        for (index first = 0; first < time; first += part) {
          const index n = std::min(part, time - first);
          std::vector<double> hidden(static_cast<std::size_t>(n * 8)), z(static_cast<std::size_t>(n * 16));
          const matrix_view<double> h(hidden.data(), n, 8);
          m.forward(cpu, {1, n}, text.data() + first, state, h);
          write_logits(cpu, matrix_view<const double>(h), m.head(), matrix_view<double>(z.data(), n, 16));
          for (index i = 0; i < n * 16; ++i) {
            const double want = logits[static_cast<std::size_t>(first * 16 + i)];
            off = std::max(off, std::abs(z[static_cast<std::size_t>(i)] - want));
            largest = std::max(largest, std::abs(want));
          }
        }
        BOOST_TEST(off <= testing::tolerance<double>::forms * largest, folder << " " << part << ": " << off);
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(a_layer_shows_what_its_mixer_reads_and_gives) {
  device::cpu cpu(2);
  const auto folder = golden() / "llama_tied";
  const auto m = load_linearised<double>(cpu, folder);
  const index rows = 2 * 9, n = m.width(), size = rows * n;
  rng random(6);
  std::vector<double> x(static_cast<std::size_t>(size));
  for (double& each : x) each = random.normal();
  auto shown = x, plain = x;
  const sequence_view seq{2, 9};
  const auto view = [&](std::vector<double>& y) { return matrix_view<double>(y.data(), rows, n); };
  for (index i = 0; i < m.depth(); ++i) {
    const auto& layer = m.stack().blocks.blocks[static_cast<std::size_t>(i)];
    const auto& p = m.stack_weights().blocks[static_cast<std::size_t>(i)];
    const tape_memory<any_decoder_layer, double, device::cpu> tape(cpu, layer, 2, 9, true);
    const state_memory<any_decoder_layer, double, device::cpu> a(cpu, layer, 2), b(cpu, layer, 2);
    std::vector<double> before = shown, read, given;
    layer.forward(cpu, seq, p, a.views(), tape.views(), matrix_view<const double>(view(shown)), view(shown),
                  [&](matrix_view<const double> u, matrix_view<const double> y) {
                    read.assign(u.data, u.data + size), given.assign(y.data, y.data + size);
                  });
    layer.forward(cpu, seq, p, b.views(), tape.views(), matrix_view<const double>(view(plain)), view(plain));
    BOOST_TEST(shown == plain);
    BOOST_TEST(a.save(1) == b.save(1));
    // The mixer alone.
    std::visit(
        [&](const auto& kind) {
          using Layer = std::decay_t<decltype(kind)>;
          const auto& weights = std::get<weights_t<Layer, const double>>(p);
          const auto mixer = kind.mixer;
          const state_memory<std::decay_t<decltype(mixer)>, double, device::cpu> state(cpu, mixer, 2);
          const tape_memory<std::decay_t<decltype(mixer)>, double, device::cpu> own(cpu, mixer, 2, 9, false);
          std::vector<double> y(read.size());
          mixer.forward(cpu, seq, kind.mixer_of(weights), state.views(), own.views(),
                        matrix_view<const double>(view(read)), view(y));
          BOOST_TEST(testing::relative_error(y, given) <= testing::tolerance<double>::forms);
        },
        layer.block);
  }
}

BOOST_AUTO_TEST_CASE(a_text_has_one_size_unless_a_layer_keeps_attention) {
  device::cpu cpu(1);
  linearised_config c = small();
  using memory = state_memory<linearised_stack, float, device::cpu>;
  const memory any(cpu, c.stack(), 1), declared(cpu, c.stack(), 1, 1000);
  BOOST_TEST(any.size() == declared.size());
  BOOST_TEST(declared.capacity() == 0);
  c.mixers[1] = mixer_kind::attention;
  BOOST_TEST(memory(cpu, c.stack(), 1, 1000).capacity() == 1000);
}

BOOST_AUTO_TEST_CASE(a_saved_text_says_where_it_is) {
  device::cpu cpu(1);
  const auto stack = small().stack();
  state_memory<linearised_stack, float, device::cpu> state(cpu, stack, 1);
  auto saved = state.save(0);
  state.restore(0, saved);
  for (const auto& e : state.names())
    if (e.name.ends_with("position")) {
      for (const float wrong : {-1.0f, 0.5f, std::numeric_limits<float>::quiet_NaN(), 3e38f}) {
        auto changed = saved;
        changed[static_cast<std::size_t>(e.offset)] = wrong;
        BOOST_CHECK_EXCEPTION(state.restore(0, changed), error, says("no number of tokens"));
      }
    }
}

BOOST_AUTO_TEST_CASE(layers_have_what_the_teachers_attention_has) {
  linearised_config c = small();
  c.scaling = {rope_scaling::kind::llama3, 8, 1, 4, 64};
  c.qkv_bias = c.output_bias = c.head_norms = true;
  c.rotates = {false, true};
  c.epsilon = 1e-3;
  c.llama_config::window = 7;
  const auto check = [&](const attention& a, index layer, index window, index sinks) {
    BOOST_TEST((a.scaling == c.scaling));
    BOOST_TEST((a.bias && a.output_bias && a.head_norms));
    BOOST_TEST(a.rotates == (layer == 1));
    BOOST_TEST(a.epsilon == 1e-3);
    BOOST_TEST(a.window == window);
    BOOST_TEST(a.sinks == sinks);
  };
  const auto hybrid = c.stack();
  check(std::get<1>(hybrid.blocks.blocks[0].block).mixer.base, 0, 5, 2);
  check(std::get<1>(hybrid.blocks.blocks[1].block).mixer.base, 1, 0, 0);
  c.mixers = {mixer_kind::window, mixer_kind::attention};
  const auto plain = c.stack();
  check(std::get<0>(plain.blocks.blocks[0].block).mixer, 0, 5, 2);
  check(std::get<0>(plain.blocks.blocks[1].block).mixer, 1, 7, 0);
}

BOOST_AUTO_TEST_CASE(a_folder_is_written_and_read) {
  device::cpu cpu(1);
  const auto folder = fs::temp_directory_path() / ("linearised-" + std::to_string(::getpid()));
  for (const auto& from : testing::golden_models(golden())) {
    const auto m = load_linearised<double>(cpu, from);
    save_linearised(cpu, m, folder, dtype::f64);
    const auto again = load_linearised<double>(cpu, folder);
    BOOST_TEST(write_linearised_config(again.config()) == write_linearised_config(m.config()));
    BOOST_TEST(again.names().size() == m.names().size());
    BOOST_TEST(std::equal(m.weights().data(), m.weights().data() + m.weights().size(), again.weights().data()));
    BOOST_TEST((kind_of_model(folder) == model_kind::linearised));
    // What a reader of the teacher's family alone would make of it.
    BOOST_CHECK_EXCEPTION(load_llama<double>(cpu, folder), error, says("model_type 'distil_xlstm_linear'"));
    fs::remove_all(folder);
  }
}

BOOST_AUTO_TEST_CASE(a_student_begins_as_its_teacher) {
  device::cpu cpu(2);
  const auto steps = golden().parent_path() / "linearise";
  const auto teacher = load_llama<double>(cpu, steps / "teacher");
  const io::token_file text(steps / "tokens.safetensors");
  const token_windows cut(text, 12);
  const std::vector<std::int32_t> ids{3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5};
  const index rows = std::ssize(ids), n = rows * teacher.vocabulary();
  const auto logits_of = [&](const auto& m) {
    std::vector<double> hidden(static_cast<std::size_t>(rows * m.width())), z(static_cast<std::size_t>(n));
    const matrix_view<double> h(hidden.data(), rows, m.width());
    reader(cpu, m)(1, rows, ids, h);
    write_logits(cpu, matrix_view<const double>(h), m.head(),
                 matrix_view<double>(z.data(), rows, m.vocabulary()));
    return z;
  };
  linearised_config c;
  // A window that holds the text changes nothing.
  c.mixers = {mixer_kind::window, mixer_kind::attention, mixer_kind::window, mixer_kind::attention};
  c.window = 11, c.sinks = 0;
  const auto same = linearise<double>(cpu, steps / "teacher", c, 1);
  BOOST_TEST(testing::relative_error(logits_of(same), logits_of(teacher)) <= testing::tolerance<double>::forms);
  c.window = 3, c.sinks = 1;
  const auto other = linearise<double>(cpu, steps / "teacher", c, 1);
  BOOST_TEST(testing::relative_error(logits_of(other), logits_of(teacher)) > 1e-3);

  // New tensors as their blocks say; gates by what the teacher's heads look at.
  c.mixers = {mixer_kind::hybrid, mixer_kind::attention, mixer_kind::window, mixer_kind::memory};
  c.features = 4;
  auto student = linearise<double>(cpu, steps / "teacher", c, 1);
  calibrate_gates(cpu, teacher, student, cut, cut.count());
  const auto hybrid = attention_reach_of(cpu, teacher, cut, 3, 1, cut.count())[0],
             memory = attention_reach_of(cpu, teacher, cut, 0, 1, cut.count())[3];
  index checked = 0;
  for (const auto& e : student.names()) {
    const double* values = student.weights().data() + e.offset;
    if (e.name == "model.layers.0.self_attn.gates.bias") {
      for (std::size_t h = 0; h < 4; ++h, ++checked) {
        BOOST_TEST(values[h] == 0);
        BOOST_TEST(values[4 + h] == std::log(std::max(hybrid[h].distance, 1.0)) + 1);
        const double mass = std::clamp(hybrid[h].mass, 0.05, 0.5);
        BOOST_TEST(values[8 + h] == std::log(mass / (1 - mass)));
      }
    } else if (e.name == "model.layers.3.self_attn.gates.bias") {
      BOOST_TEST(e.size == 8);
      for (std::size_t h = 0; h < 4; ++h, ++checked)
        BOOST_TEST(values[4 + h] == std::log(std::max(memory[h].distance, 1.0)) + 1);
    } else if (e.name.ends_with("feature_k.weight")) {
      BOOST_TEST(std::abs(values[5] - 1) < 0.2);
      BOOST_TEST(values[5] != values[0]);
      ++checked;
    }
  }
  BOOST_TEST(checked == 10);
}

BOOST_AUTO_TEST_CASE(folders_that_are_refused) {
  device::cpu cpu(1);
  const auto folder = fs::temp_directory_path() / ("refused-" + std::to_string(::getpid()));
  const io::json good = io::read_json_file(golden() / "llama_tied/config.json");
  const auto refused = [&](auto change, const std::string& message) {
    io::json c = good;
    change(c);
    BOOST_CHECK_EXCEPTION(read_linearised_config(c, "config.json"), error, says(message));
  };
  refused([](io::json& c) { c["mixers"][1] = "mamba"; }, "mixers: mixer 'mamba' is not known");
  refused([](io::json& c) { c["mixers"].erase(3); }, "3 mixers for 4 layers");
  refused([](io::json& c) { c.erase("mixers"); }, "mixers");
  refused([](io::json& c) { c["features"] = "elu"; },
          "features 'elu' are not known (softmax_pm and softmax are)");
  refused([](io::json& c) { c["window"] = 0; }, "a window of 0 tokens");
  refused([](io::json& c) { c["sinks"] = 5; }, "5 sinks beside a window of 4 tokens");
  refused([](io::json& c) { c["teacher_model_type"] = "gpt2"; }, "teacher_model_type is not supported");
  refused([](io::json& c) { c["hidden_act"] = "gelu"; }, "hidden_act 'gelu'");
  // Tensors that do not fit the mixers: all of them in one sentence.
  const auto write = [&](io::json c) {
    fs::create_directories(folder);
    fs::copy_file(golden() / "llama_tied/model.safetensors", folder / "model.safetensors",
                  fs::copy_options::overwrite_existing);
    io::write_text_atomically(folder / "config.json", c.dump());
  };
  io::json c = good;
  c["mixers"] = {"hybrid", "hybrid", "window", "attention"};
  write(c);
  BOOST_CHECK_EXCEPTION(load_language_model<float>(cpu, folder), error,
                        says("model.layers.1.self_attn.gates.weight has shape [8, 8] instead of [12, 8]"));
  c["mixers"] = {"hybrid", "mlstm", "mlstm", "window"};
  write(c);
  BOOST_CHECK_EXCEPTION(load_linearised<float>(cpu, folder), error,
                        says("model.layers.2.self_attn.feature_q.weight is missing"));
  // The family is read off the tensors where it is not said.
  c = good;
  c.erase("teacher_model_type");
  write(c);
  BOOST_TEST(!load_linearised<float>(cpu, folder).config().qkv_bias);
  fs::copy_file(golden() / "qwen2_untied/model.safetensors", folder / "model.safetensors",
                fs::copy_options::overwrite_existing);
  c = io::read_json_file(golden() / "qwen2_untied/config.json");
  c.erase("teacher_model_type"), c["attention_bias"] = true;
  io::write_text_atomically(folder / "config.json", c.dump());
  const auto biased = load_linearised<float>(cpu, folder);
  BOOST_TEST((biased.config().qkv_bias && !biased.config().output_bias));
  fs::remove_all(folder);
}

BOOST_AUTO_TEST_CASE(what_is_not_possible_is_said) {
  const auto refused = [](auto change, const std::string& message) {
    linearised_config c = small();
    change(c);
    BOOST_CHECK_EXCEPTION(c.stack(), error, says(message));
  };
  refused([](auto& c) { c.mixers.pop_back(); }, "1 mixers for 2 layers");
  refused([](auto& c) { c.window = 0; }, "a window of 0 tokens");
  refused([](auto& c) { c.sinks = 6; }, "6 sinks beside a window of 5 tokens");
  refused([](auto& c) { c.features = 0; }, "0 features");
  refused([](auto& c) { c.kv_heads = 3; }, "3 key heads do not divide the 4 heads");
  BOOST_CHECK_EXCEPTION(mixer_named("mamba"), error, says("mixer 'mamba' is not known"));
  BOOST_TEST((mixer_named("hybrid") == mixer_kind::hybrid));
}

}  // namespace distil_xlstm
