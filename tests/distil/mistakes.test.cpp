#include <boost/test/unit_test.hpp>

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include <distil_xlstm/block/mlstm.hpp>
#include <distil_xlstm/block/residual.hpp>
#include <distil_xlstm/block/sequential.hpp>
#include <distil_xlstm/block/stack.hpp>
#include <distil_xlstm/device/cpu.hpp>
#include <distil_xlstm/distil/checkpoint.hpp>
#include <distil_xlstm/distil/perplexity.hpp>
#include <distil_xlstm/distil/trainer.hpp>
#include <distil_xlstm/loss/expression.hpp>
#include <distil_xlstm/model/decoder.hpp>

#include "../refused.hpp"
#include "invented_teacher.hpp"

namespace distil_xlstm {
namespace {

using cpu = device::cpu;
constexpr index vocabulary = 11, width = 8, length = 5;

auto layers() {
  return stack{
      repeated(2, residual{sequential{layer_norm<>{width}, mlstm{.width = width, .heads = 2, .inner = 16}}})};
}
using student = model<decltype(layers()), float, cpu>;

struct world {
  cpu device{1};
  std::vector<float> ends = numbers(vocabulary * width, 3);
  token_text text = invented_text();
  token_windows windows{text, length};
  student made = make();
  invented_teacher<float> teacher;
  training_options options{.batch = 2, .length = length, .total_steps = 4};

  static std::vector<float> numbers(index n, std::uint64_t seed) {
    rng random(seed);
    std::vector<float> out;
    for (index i = 0; i < n; ++i) out.push_back(static_cast<float>(random.normal()));
    return out;
  }
  static token_text invented_text() {
    rng random(5);
    token_text text;
    for (index i = 0; i < 60; ++i) text.ids.push_back(static_cast<std::int32_t>(random.below(vocabulary)));
    return text;
  }
  student make() {
    const frozen_matrix m{ends.data(), dtype::f32, vocabulary, width};
    student s(device, layers(), m, m, nullptr);
    s.initialise(device, 1);
    return s;
  }
  auto run(teacher_source<float, cpu>& source) {
    return trainer(device, made, windows, source, loss::kl(1.0) + loss::frobenius(loss::layers::ratio),
                   options);
  }
  auto run() { return run(teacher); }
  auto alone() { return trainer(device, made, windows, no_teacher{}, loss::cross_entropy(), options); }
};

}  // namespace

BOOST_AUTO_TEST_CASE(a_run_without_a_length_is_named) {
  world w;
  w.options.total_steps = 0;
  auto run = w.run();
  refused([&] { run.step(); }, "trainer: total_steps is 0; say over how many steps the learning rate falls");
  // It may be said later.
  run.total_steps(3);
  BOOST_TEST(run.step().lr > 0);
}

BOOST_AUTO_TEST_CASE(steps_beyond_the_run_that_would_learn_nothing_are_named) {
  world w;
  w.options.total_steps = 2;
  auto run = w.run();
  run.step(), run.step();
  refused([&] { run.step(); }, "trainer: step 3 of a run of 2: the learning rate has come to 0");
  BOOST_TEST(run.step_count() == 2);
  // A rate that stays above 0 may go on.
  w.options.lr.floor = 1e-4;
  auto slow = w.run();
  for (int i = 0; i < 3; ++i) slow.step();
  w.options.lr = {.peak = 1e-3, .after = schedule::annealing::constant};
  auto constant = w.run();
  for (int i = 0; i < 3; ++i) constant.step();
}

BOOST_AUTO_TEST_CASE(options_that_make_no_sense_are_named) {
  const auto with = [](const auto& change, const std::string& part) {
    world w;
    change(w.options);
    refused([&] { w.alone(); }, "training_options: " + part);
  };
  with([](auto& o) { o.batch = 0; }, "batch is 0, it must be 1 or more");
  with([](auto& o) { o.batch = -2; }, "batch is -2");
  with([](auto& o) { o.length = 0; }, "length is 0");
  with([](auto& o) { o.accumulate = 0; }, "accumulate is 0");
  with([](auto& o) { o.total_steps = -1; }, "total_steps is -1, it must be 0 or more");
  with([](auto& o) { o.restart_epochs = -1; }, "restart_epochs is -1");
  with([](auto& o) { o.lr.peak = -1e-3; }, "lr.peak is -0.001");
  with([](auto& o) { o.lr.peak = NAN; }, "lr.peak is nan");
  with([](auto& o) { o.lr.floor = -1; }, "lr.floor is -1");
  with([](auto& o) { o.lr.warmup = -3; }, "lr.warmup is -3");
  with([](auto& o) { o.clip = -1; }, "clip is -1");
  with([](auto& o) { o.optimiser.weight_decay = -0.1; }, "optimiser.weight_decay is -0.1");
  with([](auto& o) { o.optimiser.beta1 = 1; }, "optimiser.beta1 is 1");
  with([](auto& o) { o.rate_of = [](const std::string&) { return -1.0; }; },
       "rate_of gives -1 for stack.blocks.0");
}

BOOST_AUTO_TEST_CASE(a_student_that_nobody_initialised_is_named) {
  world w;
  const frozen_matrix m{w.ends.data(), dtype::f32, vocabulary, width};
  student bare(w.device, layers(), m, m, nullptr);
  trainer run(w.device, bare, w.windows, w.teacher, loss::kl(1.0), w.options);
  const char* sentence = "trainer: every weight of the student is 0: initialise it, or load it, first";
  for (int i = 0; i < 2; ++i) refused([&] { run.step(); }, sentence);
  refused([&] { run.measure(); }, sentence);
}

namespace {
/// Knows another vocabulary, or another head.
struct other_teacher final : teacher_source<float, cpu> {
  invented_teacher<float> signals;
  std::vector<float> numbers;
  index rows;
  other_teacher(index n, std::uint64_t seed) : numbers(world::numbers(n * width, seed)), rows(n) {}
  index layers() const override { return signals.layers(); }
  index vocabulary() const override { return rows; }
  frozen_matrix head() const override { return {numbers.data(), dtype::f32, rows, width}; }
  void fill(cpu& d, const std::vector<index>& which, const device_batch<cpu>& tokens,
            const teacher_signals<float>& out) override {
    signals.fill(d, which, tokens, out);
  }
};
}  // namespace

BOOST_AUTO_TEST_CASE(another_teacher_is_named) {
  world w;
  for (const index n : {vocabulary - 1, vocabulary + 1}) {
    other_teacher other(n, 3);
    refused([&] { w.run(other); },
            "trainer: the teacher has a vocabulary of " + std::to_string(n) + ", the student of 11");
  }
  // The same vocabulary, the same head however it is stored, and another head.
  other_teacher same(vocabulary, 3), unlike(vocabulary, 4);
  for (float& x : same.numbers) x *= 1.02f;
  w.run(same).step();
  refused([&] { w.run(unlike); }, "trainer: the student's head is not this teacher's");
  // Who compares hidden states alone needs no more than the text's ids.
  other_teacher small(vocabulary - 1, 4), large(vocabulary + 5, 4);
  const auto hidden = loss::frobenius();
  refused([&] { trainer(w.device, w.made, w.windows, small, hidden, w.options); }, "a vocabulary of 10");
  trainer(w.device, w.made, w.windows, large, hidden, w.options).step();
  // A text of more ids than the student has.
  token_text foreign = w.text;
  foreign.ids[4] = vocabulary;
  const token_windows windows(foreign, length);
  refused([&] { trainer(w.device, w.made, windows, w.teacher, loss::kl(1.0), w.options); },
          "the text was made for a vocabulary of 12, the student has 11");
}

namespace {
/// Leaves out rows, or targets, or all.
struct forgetful_teacher final : teacher_source<float, cpu> {
  invented_teacher<float> signals;
  bool states = false, targets = false;
  index rows = 0;  ///< left out at the end
  index layers() const override { return signals.layers(); }
  void fill(cpu& d, const std::vector<index>& which, const device_batch<cpu>& tokens,
            const teacher_signals<float>& out) override {
    std::vector<float> room(static_cast<std::size_t>(out.last_hidden.size()));
    teacher_signals<float> part = out;
    if (!states) part.last_hidden.data = room.data();
    if (!targets) part.targets.clear();
    const auto keep = out.last_hidden.slice(out.last_hidden.rows - rows, rows);
    const std::vector<float> before(keep.data, keep.data + keep.size());
    signals.fill(d, which, tokens, part);
    std::copy(before.begin(), before.end(), keep.data);
  }
};
}  // namespace

BOOST_AUTO_TEST_CASE(a_source_that_fills_nothing_is_named) {
  world w;
  forgetful_teacher source;
  refused([&] { w.run(source).step(); },
          "trainer: the teacher's source left row 0 of the final hidden states unwritten");
  source.states = true;
  refused([&] { w.run(source).step(); }, "trainer: the teacher's source left row 0 of a target unwritten");
  source.targets = true, source.rows = 3;
  refused([&] { w.run(source).step(); }, "left row 7 of the final hidden states unwritten");
  source.rows = 0;
  w.run(source).step();
  // What the objective does not compare is not asked for.
  forgetful_teacher states;
  states.states = true;
  trainer(w.device, w.made, w.windows, states, loss::kl(1.0), w.options).step();
  forgetful_teacher targets;
  targets.targets = true;
  trainer(w.device, w.made, w.windows, targets, loss::frobenius(loss::layers::ratio), w.options).step();
}

BOOST_AUTO_TEST_CASE(counts_that_make_no_sense_are_named) {
  world w;
  refused([&] { token_windows(w.text, 0); }, "windows of 0 tokens");
  refused([&] { token_windows(w.text, 60); }, "too few for one window of 60");
  refused([] { checkpoints("folder", 0); }, "checkpoints: of 0 that are kept none would stay");
  const auto never = [](auto&&...) { BOOST_ERROR("the model was asked"); };
  const frozen_matrix head{w.ends.data(), dtype::f32, vocabulary, width};
  refused([&] { score_text<float>(w.device, w.text, 5, 0, head, never); }, "perplexity: 0 windows at a time");
  refused([&] { score_text<float>(w.device, w.text, -5, 1, head, never); }, "windows of -5 tokens");
  auto run = w.alone();
  refused([&] { run.warmup(-5); }, "lr.warmup is -5, it must be 0 or more");
  refused([&] { run.total_steps(-1); }, "total_steps is -1, it must be 0 or more");
  refused([&] { decoder(w.device, w.made, {.patience = -1}); }, "decoder: a patience of -1 steps");
  refused([&] { decoder(w.device, w.made, {.context = -1}); }, "and a context of -1 tokens");
}

BOOST_AUTO_TEST_CASE(ends_without_numbers_are_named) {
  world w;
  const frozen_matrix full{w.ends.data(), dtype::f32, vocabulary, width},
      none{nullptr, dtype::f32, vocabulary, width}, no_rows{w.ends.data(), dtype::f32, 0, width};
  refused([&] { student(w.device, layers(), none, full, nullptr); }, "model: the embedding has no numbers");
  refused([&] { student(w.device, layers(), full, none, nullptr); }, "model: the head has no numbers");
  refused([&] { student(w.device, layers(), no_rows, no_rows, nullptr); }, "has no numbers");
}

BOOST_AUTO_TEST_CASE(a_text_that_changed_under_its_windows_is_named) {
  token_text text{{0, 1, 2, 3, 4, 5, 6}};
  const token_windows windows(text, 3);
  token_batch out;
  windows.read({0, 1}, out);
  text.ids.resize(2);
  refused(
      [&] {
        windows.read({0, 1}, out);
      },
      "the text had 7 tokens when it was cut into windows, and has 2 now");
}

}  // namespace distil_xlstm
