#include <unistd.h>

#include <boost/test/unit_test.hpp>

#include <filesystem>
#include <memory>
#include <optional>
#include <span>

#include <distil_xlstm/block/mlstm.hpp>
#include <distil_xlstm/block/residual.hpp>
#include <distil_xlstm/block/sequential.hpp>
#include <distil_xlstm/block/stack.hpp>
#include <distil_xlstm/device/cpu.hpp>
#include <distil_xlstm/distil/trainer.hpp>
#include <distil_xlstm/io/write_token_file.hpp>
#include <distil_xlstm/loss/expression.hpp>
#include <distil_xlstm/model/decoder.hpp>
#include <distil_xlstm/model/reader.hpp>
#include <distil_xlstm/model/tensor_files.hpp>
#include <distil_xlstm/schedule/linear.hpp>
#include <distil_xlstm/testing/tolerances.hpp>

#include "../counted_allocations.hpp"
#include "invented_teacher.hpp"

namespace distil_xlstm {
namespace {

using cpu = device::cpu;
constexpr index vocabulary = 19, width = 16, heads = 2, inner = 32, length = 7;

template <index Width, index Heads, index Inner>
using layer_of = residual<sequential<layer_norm<Width>, basic_mlstm<Width, Heads, Inner>>>;

template <index Width, index Heads, index Inner>
layer_of<Width, Heads, Inner> layer() {
  basic_mlstm<Width, Heads, Inner> cell;
  if constexpr (Width == dynamic) cell.width = width, cell.heads = heads, cell.inner = inner;
  return {sequential<layer_norm<Width>, basic_mlstm<Width, Heads, Inner>>{{extent<Width>(width)}, cell}};
}
auto fixed_stack() {
  stack<layer_of<width, heads, inner>, 2> s;
  s.blocks.blocks.fill(layer<width, heads, inner>());
  return s;
}
auto run_time_stack() {
  stack<layer_of<dynamic, dynamic, dynamic>> s;
  s.blocks.blocks.assign(2, layer<dynamic, dynamic, dynamic>());
  return s;
}
/// No layer of it can be looked at.
auto plain_stack() {
  const auto l = layer<width, heads, inner>();
  return sequential{l, l};
}

template <class T>
struct world {
  cpu device{2};
  std::filesystem::path path = std::filesystem::temp_directory_path() /
                               ("distil_xlstm-own-student-" + std::to_string(::getpid()) + ".safetensors");
  io::token_file file;
  token_windows text;
  std::vector<T> embedding;
  invented_teacher<T> teacher;
  training_options options;

  world() : file(make(path)), text(file, length) {
    rng random(11);
    for (index i = 0; i < vocabulary * width; ++i) embedding.push_back(static_cast<T>(random.normal()));
    options.batch = 3, options.length = length, options.total_steps = 10, options.seed = 2;
  }
  ~world() { std::filesystem::remove(path); }
  static io::token_file make(const std::filesystem::path& path) {
    rng random(5);
    std::vector<std::int32_t> ids;
    for (index i = 0; i < 300; ++i) ids.push_back(static_cast<std::int32_t>(random.below(vocabulary)));
    io::write_token_file(path, ids, std::vector<std::int64_t>{0, 13, 14, 120}, vocabulary);
    return io::token_file(path);
  }
  frozen_matrix ends() const { return {embedding.data(), dtype_of<T>, vocabulary, width}; }
  template <class Stack>
  model<Stack, T, cpu> make_student(Stack s) {
    model<Stack, T, cpu> made(device, s, ends(), ends(), nullptr);
    made.initialise(device, 3);
    return made;
  }
};

auto objective(loss::layers compared) {
  using namespace loss;
  const schedule::linear alpha{0.8, 0.2};
  return alpha * kl(1.5) + (1 - alpha) * cross_entropy() + 0.3 * frobenius(compared) + 0.1 * cosine(compared);
}

}  // namespace

BOOST_AUTO_TEST_CASE(sizes_of_the_compiler_and_of_the_program_are_one_student) {
  world<float> w;
  auto fixed = w.make_student(fixed_stack());
  auto open = w.make_student(run_time_stack());
  auto plain = w.make_student(plain_stack());
  BOOST_TEST(sizeof(layer<width, heads, inner>()) < sizeof(layer<dynamic, dynamic, dynamic>()));
  trainer a(w.device, fixed, w.text, w.teacher, objective(loss::layers::average), w.options);
  trainer b(w.device, open, w.text, w.teacher, objective(loss::layers::average), w.options);
  for (int i = 0; i < 4; ++i) {
    const auto x = a.step(), y = b.step();
    BOOST_TEST(x.total == y.total);
    BOOST_TEST(x.grad_norm == y.grad_norm);
    BOOST_TEST(x["kl"] == y["kl"]);
    const double alpha = 0.8 - 0.6 * i / 10.0;
    const double total =
        alpha * 1.5 * 1.5 * x["kl"] + (1 - alpha) * x["ce"] + 0.3 * x["frobenius"] + 0.1 * x["cosine"];
    BOOST_TEST(std::abs(x.total - total) <= 1e-5 * total);
    BOOST_CHECK_EXCEPTION(x["perplexity"], error, [](const error& e) {
      return std::string(e.what()).find("kl, ce, frobenius, cosine") != std::string::npos;
    });
  }
  // Without taps, everything but a comparison of layers.
  trainer c(w.device, plain, w.text, w.teacher, objective(loss::layers::average), w.options);
  const double first = c.step().total;
  for (int i = 0; i < 8; ++i) c.step();
  BOOST_TEST(c.step().total < first);
  BOOST_CHECK_EXCEPTION(
      trainer(w.device, plain, w.text, w.teacher, objective(loss::layers::ratio), w.options), error,
      [](const error& e) { return std::string(e.what()).find("distil_xlstm::stack") != std::string::npos; });
  // One objective compares one thing, and what the teacher and the student have.
  const auto refused = [&](const auto& o, const std::string& why) {
    BOOST_CHECK_EXCEPTION(trainer(w.device, open, w.text, w.teacher, o, w.options), error,
                          [&](const error& e) { return std::string(e.what()).find(why) != std::string::npos; });
  };
  refused(loss::frobenius(loss::layers::average) + loss::cosine(loss::layers::ratio),
          "one term compares layers::average, another layers::ratio");
  refused(objective(loss::layers::block_wise), "the student has 2 blocks, the teacher 5 layers");
}

BOOST_AUTO_TEST_CASE(a_text_in_memory_is_the_file_of_one_document) {
  token_text text;
  rng random(5);
  for (index i = 0; i < 40; ++i) text.ids.push_back(static_cast<std::int32_t>(random.below(vocabulary)));
  text.ids[7] = vocabulary - 1;
  const auto path = std::filesystem::temp_directory_path() /
                    ("distil_xlstm-text-" + std::to_string(::getpid()) + ".safetensors");
  io::write_token_file(path, text.ids, std::vector<std::int64_t>{0}, vocabulary);
  const io::token_file file(path);
  std::filesystem::remove(path);
  const token_windows a(text, length), b(file, length);
  BOOST_TEST(a.count() == b.count());
  BOOST_TEST(a.vocab_size() == vocabulary);
  token_batch x, y;
  a.read({0, 3}, x), b.read({0, 3}, y);
  BOOST_TEST((x.ids == y.ids && x.targets == y.targets && x.start == y.start && x.scored == y.scored));
  BOOST_TEST(x.scored_tokens == 2 * length);
  text.ids[3] = -1;
  BOOST_CHECK_EXCEPTION(token_windows(text, length), error,
                        [](const error& e) { return std::string(e.what()).find("-1") != std::string::npos; });
}

BOOST_AUTO_TEST_CASE(a_student_takes_the_ends_of_a_teacher) {
  struct ends_of_a_teacher {
    using scalar = double;
    std::shared_ptr<std::vector<double>> numbers =
        std::make_shared<std::vector<double>>(vocabulary * width, 0.5);
    frozen_matrix embedding() const { return {numbers->data(), dtype::f64, vocabulary, width}; }
    frozen_matrix head() const { return embedding(); }
  };
  cpu device{1};
  std::weak_ptr<std::vector<double>> alive;
  {
    auto teacher = std::make_optional<ends_of_a_teacher>();
    alive = teacher->numbers;
    model s(device, stack{repeated(2, layer<dynamic, dynamic, dynamic>())}, *teacher);
    static_assert(std::same_as<decltype(s)::scalar, double>);
    teacher.reset();
    BOOST_TEST(!alive.expired());
    BOOST_TEST(s.vocabulary() == vocabulary);
    BOOST_TEST(s.stack().count() == 2);
  }
  BOOST_TEST(alive.expired());
}

BOOST_AUTO_TEST_CASE(gradient_of_an_expression_over_an_own_student) {
  for (const bool norm : {true, false})
    BOOST_TEST_CONTEXT((norm ? "with" : "without") << " a norm at the end") {
      world<double> w;
      auto blocks = fixed_stack();
      blocks.post_blocks_norm = norm;
      auto s = w.make_student(blocks);
      rng random(17);
      for (index i = 0; i < s.weights().size(); ++i) s.weights().data()[i] += 0.1 * random.normal();
      trainer run(w.device, s, w.text, w.teacher, objective(loss::layers::ratio), w.options);
      run.measure();
      const std::vector<double> gradient(run.gradients().data(),
                                         run.gradients().data() + run.gradients().size());
      for (const auto& e : s.names()) {
        double worst = 0, largest = 0;
        for (index i = e.offset; i < e.offset + e.size; i += std::max<index>(1, e.size / 5)) {
          double& weight = s.weights().data()[i];
          const double keep = weight;
          double best = INFINITY, slope = 0;
          for (double h : {1e-4, 1e-5}) {
            auto at = [&](double x) {
              weight = keep + x;
              const double total = run.measure().total;
              weight = keep;
              return total;
            };
            const double numeric = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h);
            const double off = std::abs(numeric - gradient[static_cast<std::size_t>(i)]);
            if (off < best) best = off, slope = numeric;
          }
          worst = std::max(worst, best), largest = std::max(largest, std::abs(slope));
        }
        BOOST_TEST_CONTEXT(e.name)
        BOOST_TEST(worst <= testing::tolerance<double>::gradient_check * std::max(largest, 1e-3));
      }
    }
}

BOOST_AUTO_TEST_CASE(a_step_allocates_nothing_after_the_first) {
  world<float> w;
  auto s = w.make_student(fixed_stack());
  trainer run(w.device, s, w.text, w.teacher, objective(loss::layers::ratio), w.options);
  run.step();
  const long before = allocations;
  for (int i = 0; i < 5; ++i) run.step();
  BOOST_TEST(allocations - before == 0);
}

BOOST_AUTO_TEST_CASE(a_student_is_saved_loaded_and_read_token_by_token) {
  world<float> w;
  auto s = w.make_student(fixed_stack());
  const auto path = std::filesystem::path(w.path) += ".student";
  save_tensors(w.device, s, path);
  auto t = w.make_student(fixed_stack());
  t.initialise(w.device, 99);
  load_tensors(w.device, t, path);
  for (index i = 0; i < s.weights().size(); ++i) BOOST_REQUIRE(s.weights().data()[i] == t.weights().data()[i]);

  stack<layer_of<width, heads, inner>, 3> deeper;
  deeper.blocks.blocks.fill(layer<width, heads, inner>());
  auto other = w.make_student(deeper);
  BOOST_CHECK_EXCEPTION(load_tensors(w.device, other, path), error, [](const error& e) {
    return std::string(e.what()).find("stack.blocks.2.1.proj_up.weight is missing") != std::string::npos;
  });

  // The same text at once and as it comes.
  const std::vector<std::int32_t> ids = {1, 4, 2, 18, 0, 7};
  std::vector<float> whole(ids.size() * width), single(whole.size());
  reader at_once(w.device, s), as_it_comes(w.device, s);
  at_once.read(ids, {whole.data(), std::ssize(ids), width});
  for (std::size_t i = 0; i < ids.size(); ++i)
    as_it_comes.read(std::span(ids).subspan(i, 1), {single.data() + i * width, 1, width});
  for (std::size_t i = 0; i < whole.size(); ++i) BOOST_TEST(std::abs(whole[i] - single[i]) <= 1e-4f);
  index drawn = 0;
  generate(w.device, s, ids, 5, {.temperature = 0}, [&](std::int32_t id) {
    BOOST_TEST((id >= 0 && id < vocabulary));
    ++drawn;
    return true;
  });
  BOOST_TEST(drawn == 5);
  std::filesystem::remove(path);
}

}  // namespace distil_xlstm
