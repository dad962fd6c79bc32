#include <unistd.h>

#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <string>
#include <type_traits>
#include <vector>

#include <distil_xlstm/block/mlstm.hpp>
#include <distil_xlstm/block/residual.hpp>
#include <distil_xlstm/block/sequential.hpp>
#include <distil_xlstm/block/stack.hpp>
#include <distil_xlstm/device/cpu.hpp>
#include <distil_xlstm/distil/score.hpp>
#include <distil_xlstm/distil/trainer.hpp>
#include <distil_xlstm/io/write_token_file.hpp>
#include <distil_xlstm/loss/expression.hpp>
#include <distil_xlstm/model/tensor_files.hpp>
#include <distil_xlstm/schedule/linear.hpp>

#include "../refused.hpp"

// What a user writes outside the library.
namespace elsewhere {
struct halving {
  using scalar = double;
  double at(const distil_xlstm::schedule::clock& c) const { return std::exp2(-static_cast<double>(c.step)); }
};
struct derived : distil_xlstm::schedule::arithmetic {
  using scalar = float;
  float at(const distil_xlstm::schedule::clock& c) const { return static_cast<float>(c.step); }
};
// Found by what it derives from ...
constexpr distil_xlstm::schedule::clock third{2, 10, 5};
inline auto with_a_base() { return 1 - 0.5f * derived{} + derived{}; }
// ... or by the namespace that objectives are written in.
inline auto without() {
  using namespace distil_xlstm::loss;
  return 1 - halving{} * halving{};
}
}  // namespace elsewhere

namespace distil_xlstm {
namespace {

using cpu = device::cpu;
constexpr index vocabulary = 11, width = 8, length = 5;

auto layers(index blocks = 2) {
  return stack{repeated(
      blocks, residual{sequential{layer_norm<>{width}, mlstm{.width = width, .heads = 2, .inner = 16}}})};
}
using student = model<decltype(layers()), float, cpu>;

std::vector<float> numbers(std::uint64_t seed) {
  rng random(seed);
  std::vector<float> out;
  for (index i = 0; i < vocabulary * width; ++i) out.push_back(static_cast<float>(random.normal()));
  return out;
}
struct world {
  cpu device{1};
  std::vector<float> ends = numbers(3);
  token_text text = invented();
  token_windows windows{text, length};
  student made = make();
  training_options options{.batch = 2, .length = length, .total_steps = 4, .lr = {.peak = 1e-2}};

  static token_text invented() {
    rng random(5);
    token_text text;
    for (index i = 0; i < 80; ++i) text.ids.push_back(static_cast<std::int32_t>(random.below(vocabulary)));
    return text;
  }
  student make(index blocks = 2) {
    const frozen_matrix m{ends.data(), dtype::f32, vocabulary, width};
    student s(device, layers(blocks), m, m, nullptr);
    s.initialise(device, 1);
    return s;
  }
  std::vector<float> weights() const {
    return {made.weights().data(), made.weights().data() + made.weights().size()};
  }
};

}  // namespace

BOOST_AUTO_TEST_CASE(documents_in_memory_are_those_of_a_file) {
  token_text text;
  for (const std::vector<std::int32_t>& document :
       {std::vector<std::int32_t>{1, 2, 3}, {4}, {5, 6, 7, 8, 9, 10, 1, 2}, {3, 4, 5}})
    text.append(document);
  BOOST_TEST(text.documents == (std::vector<index>{0, 3, 4, 12}), boost::test_tools::per_element());
  const auto path = std::filesystem::temp_directory_path() /
                    ("distil_xlstm-documents-" + std::to_string(::getpid()) + ".safetensors");
  io::write_token_file(path, text.ids, std::vector<std::int64_t>{0, 3, 4, 12}, vocabulary);
  const io::token_file file(path);
  std::filesystem::remove(path);
  for (index i = 0; i < text.size(); ++i) {
    BOOST_TEST(text.document_start(i) == file.document_start(i));
    BOOST_TEST(text.starts_at(i) == file.starts_at(i));
  }
  const token_windows a(text, 4), b(file, 4);
  BOOST_TEST(a.count() == b.count());
  token_batch x, y;
  a.read({0, 1, 2}, x), b.read({0, 1, 2}, y);
  BOOST_TEST((x.ids == y.ids && x.targets == y.targets && x.start == y.start && x.scored == y.scored));
  BOOST_TEST(x.scored_tokens == y.scored_tokens);
  // A text that began as one document goes on.
  token_text grown{{1, 2}};
  grown.append(std::vector<std::int32_t>{3});
  BOOST_TEST(grown.documents == (std::vector<index>{0, 2}), boost::test_tools::per_element());
  refused([&] { grown.append({}); }, "a document has a token or more");
  for (const std::vector<index>& wrong : {std::vector<index>{1, 2}, {0, 3}, {0, 2, 2}, {0, 2, 1}}) {
    grown.documents = wrong;
    refused([&] { token_windows(grown, 1); }, "the text's");
  }
}

BOOST_AUTO_TEST_CASE(an_order_of_ones_own_is_read) {
  world w;
  std::vector<index> asked;
  w.options.window_of = [&](index row) { return asked.push_back(row), 3 + row % 2; };
  // The same windows as a text of nothing else, a document each: what a memory has before one begins is then rounded
  // alike.
  token_text whole, part;
  for (index i = 0; i < 11; ++i) {
    const auto document = std::span(w.text.ids).subspan(static_cast<std::size_t>(i * length), length);
    whole.append(document);
    if (i == 3 || i == 4) part.append(document);
    if (i == 5) part.append(document.first(1));
  }
  const token_windows all(whole, length), windows(part, length);
  trainer run(w.device, w.made, all, no_teacher{}, loss::cross_entropy(), w.options);
  const double total = run.step().total, again = run.measure().total;
  BOOST_TEST(asked == (std::vector<index>{0, 1, 2, 3}), boost::test_tools::per_element());
  w.options.window_of = {};
  w.options.order = window_order::sequential;
  student same = w.make();
  trainer plain(w.device, same, windows, no_teacher{}, loss::cross_entropy(), w.options);
  BOOST_TEST(plain.step().total == total);
  BOOST_TEST(plain.measure().total == again);
  for (const index wrong : {index{-1}, all.count()}) {
    w.options.window_of = [wrong](index) { return wrong; };
    trainer bad(w.device, w.made, all, no_teacher{}, loss::cross_entropy(), w.options);
    refused([&] { bad.step(); }, "window_of: row 0 is to read window " + std::to_string(wrong) +
                                     ", there are " + std::to_string(all.count()));
  }
}

BOOST_AUTO_TEST_CASE(a_rate_of_ones_own_is_taken) {
  world w;
  w.options.rate = [](const schedule::clock& c) {
    return c.step == 1 ? 0.0 : 0.5 / static_cast<double>(c.step + 1);
  };
  trainer run(w.device, w.made, w.windows, no_teacher{}, loss::cross_entropy(), w.options);
  BOOST_TEST(run.step().lr == 0.5);
  const auto before = w.weights();
  BOOST_TEST(run.step().lr == 0);
  BOOST_TEST(w.weights() == before, boost::test_tools::per_element());
  BOOST_TEST(run.step().lr == 0.5 / 3);
  w.options.rate = [](const schedule::clock&) { return -1e-3; };
  trainer bad(w.device, w.made, w.windows, no_teacher{}, loss::cross_entropy(), w.options);
  refused([&] { bad.step(); }, "trainer: the learning rate of step 1 is -0.001");
}

BOOST_AUTO_TEST_CASE(schedules_outside_the_library) {
  using elsewhere::third;
  BOOST_TEST(elsewhere::with_a_base().at(third) == 2.0f);
  BOOST_TEST(elsewhere::without().at(third) == 1 - 0.0625);
  static_assert(std::is_same_v<decltype(elsewhere::with_a_base())::scalar, float>);
  // Lambdas, alone and in sums, and as a weight and a temperature.
  const double peak = 3;
  const auto lambda = [peak](schedule::clock c) { return peak - static_cast<double>(c.step); };
  const auto whole = [](const schedule::clock& c) { return c.step; };
  static_assert(NumberOrSchedule<decltype(lambda)> && NumberOrSchedule<decltype(whole)>);
  using namespace loss;
  BOOST_TEST((1 - lambda).at(third) == 0.0);
  BOOST_TEST((whole * schedule::linear{1.0, 0.0}).at(third) == 2 * 0.8);
  const auto objective = lambda * kl(lambda) + (1 - lambda) * cross_entropy();
  const auto plain = schedule::linear{3.0, -7.0} * kl(schedule::linear{3.0, -7.0}) +
                     (1 - schedule::linear{3.0, -7.0}) * cross_entropy();
  const auto a = objective.at<double>(third).logits, b = plain.at<double>(third).logits;
  static_assert(std::is_same_v<decltype(a), decltype(b)>);
  BOOST_TEST((a.facts() == b.facts()));
  // What refers to something else is no schedule: it could not be saved with a run.
  std::string text;
  const auto by_value = [text](schedule::clock) { return static_cast<double>(text.size()); };
  static_assert(!NumberOrSchedule<decltype(by_value)>);
}

BOOST_AUTO_TEST_CASE(a_text_is_scored_in_one_call) {
  world w;
  const text_score all = score(w.device, w.made, w.text, {.window = 20, .batch = 3});
  BOOST_TEST(all.tokens == 80);
  BOOST_TEST(all.scored == 4 * 19);
  reader read(w.device, w.made);
  const text_score by_hand = score_text<float>(
      w.device, w.text, 20, 1, w.made.head(),
      [&](sequence_view seq, const std::int32_t* ids, matrix_view<float> hidden) { read(seq, ids, hidden); });
  BOOST_TEST(all.nll == by_hand.nll, boost::test_tools::tolerance(1e-5));
  BOOST_TEST(score(w.device, w.made, w.text).scored == 79);
}

BOOST_AUTO_TEST_CASE(the_best_weights_are_kept_and_given_back) {
  world w;
  trainer run(w.device, w.made, w.windows, no_teacher{}, loss::cross_entropy(), w.options);
  run.step();
  const float* place = w.made.weights().data();
  const auto best = w.made.weights();
  BOOST_TEST((best.data() != place));
  const auto then = w.weights();
  const double total = run.measure().total;
  run.step();
  BOOST_TEST((w.weights() != then));
  w.made.weights() = best;
  BOOST_TEST((w.made.weights().data() == place));
  BOOST_TEST(w.weights() == then, boost::test_tools::per_element());
  // Who works with the student sees them.
  BOOST_TEST(score(w.device, w.made, w.text).nll > 0);
  BOOST_TEST(run.measure().total < 2 * total);
  student deeper = w.make(3);
  refused([&] { deeper.weights() = best; }, "weights: the others are those of another model");
  static_assert(!std::is_copy_constructible_v<student> && std::is_move_constructible_v<student>);
}

BOOST_AUTO_TEST_CASE(a_stack_is_saved_without_its_ends) {
  world w;
  const auto path = std::filesystem::temp_directory_path() /
                    ("distil_xlstm-stack-" + std::to_string(::getpid()) + ".safetensors");
  const auto whole = std::filesystem::path(path) += ".whole";
  save_stack(w.device, w.made, path);
  save_tensors(w.device, w.made, whole);
  BOOST_TEST(std::filesystem::file_size(path) < std::filesystem::file_size(whole));
  const auto before = w.weights();
  for (const auto& file : {path, whole}) {
    w.made.initialise(w.device, 7);
    BOOST_TEST((w.weights() != before));
    load_tensors(w.device, w.made, file);
    BOOST_TEST(w.weights() == before, boost::test_tools::per_element());
  }
  // Between other ends, and in another stack, it is refused.
  world other;
  const auto foreign = numbers(4);
  std::copy(foreign.begin(), foreign.end(), other.ends.begin());
  for (const auto& file : {path, whole})
    refused([&] { load_tensors(other.device, other.made, file); },
            "it was trained between another teacher's embedding and head");
  student deeper = w.make(3);
  refused([&] { load_tensors(w.device, deeper, path); }, "stack.blocks.2.");
  // The same ends, stored more coarsely, are the same.
  world rounded;
  for (float& x : rounded.ends) x = bf16(x);
  load_tensors(rounded.device, rounded.made, path);
  std::filesystem::remove(path), std::filesystem::remove(whole);
}

}  // namespace distil_xlstm
