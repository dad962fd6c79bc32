#define BOOST_TEST_MODULE linearised
#include <boost/test/unit_test.hpp>

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
#include <distil_xlstm/testing/tolerances.hpp>

#include "../comparison/linearised.hpp"

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
/// A folder's model, of which nothing changes.
model<linearised_config, double, device::cpu, frozen> frozen_model(device::cpu& cpu, const fs::path& folder) {
  const auto file = std::make_shared<io::safetensors_file>(folder / "model.safetensors");
  return {cpu, testing::golden_linearised_config(folder),
          [file](const std::string& name) { return file->at(name).stored(); }, file};
}

auto says(std::string text) {
  return [text](const error& e) { return std::string(e.what()).find(text) != std::string::npos; };
}

}  // namespace

BOOST_AUTO_TEST_CASE(the_reference_in_double) { compare<double>(); }
BOOST_AUTO_TEST_CASE(the_reference_in_float) { compare<float>(); }

BOOST_AUTO_TEST_CASE(all_of_it_is_trained_with_a_tied_head) {
  // Central differences through embedding, stack and the same matrix as head.
  device::cpu cpu(1);
  linearised_config c = small();
  c.tied = true;
  testing::trained_linearised<double, device::cpu> m(cpu, c);
  rng random(5);
  for (index i = 0; i < m.weights.size(); ++i) m.weights.data()[i] = 0.4 * random.normal();
  for (index i = 0; i < m.embedding.size(); ++i) m.embedding.data()[i] = random.normal();
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
  for (const auto& e : m.names)
    check(e.name, m.weights.data() + e.offset, m.gradients.data() + e.offset, e.size);
  check("embedding and head", m.embedding.data(), m.dembedding.data(), m.embedding.size());
}

BOOST_AUTO_TEST_CASE(a_frozen_model_reads_and_writes_texts) {
  device::cpu cpu(2);
  for (const auto& folder : testing::golden_models(golden())) {
    const auto m = frozen_model(cpu, folder);
    testing::trained_linearised<double, device::cpu> trained(cpu, m.config());
    trained.load(folder / "model.safetensors");
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
  testing::trained_linearised<double, device::cpu> m(cpu, testing::golden_linearised_config(folder));
  m.load(folder / "model.safetensors");
  const index rows = 2 * 9, n = m.config.width, size = rows * n;
  rng random(6);
  std::vector<double> x(static_cast<std::size_t>(size));
  for (double& each : x) each = random.normal();
  auto shown = x, plain = x;
  const sequence_view seq{2, 9};
  const auto view = [&](std::vector<double>& y) { return matrix_view<double>(y.data(), rows, n); };
  for (index i = 0; i < m.config.layers; ++i) {
    const auto& layer = m.stack.blocks.blocks[static_cast<std::size_t>(i)];
    const auto& p = m.weights.views().blocks[static_cast<std::size_t>(i)];
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
          const auto& weights = std::get<weights_t<Layer, double>>(p);
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
