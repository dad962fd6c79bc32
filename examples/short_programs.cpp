// Short programs, each of them what somebody wanted who took the library into a project of their own: training on data
// in memory, in an order, from a source and by schedules of one's own; the score of a text; the best student so far; a
// stack in a file without the teacher's embedding and head; two threads over one student; a text that goes on next day; a
// run that goes on from a checkpoint, with a cache for its teacher.
// (Objects of one program may be compiled for different machines, too: tests/device/mixed_march does it.)

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <iostream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <distil_xlstm/distil_xlstm.hpp>
#include <distil_xlstm/io/json.hpp>

namespace dx = distil_xlstm;
using cpu = dx::device::cpu;

// A language of 30 words, each followed by one of two, and an end-of-text token. No teacher is needed for its embedding,
// which is the head, too: any matrix does.
namespace language {
constexpr dx::index vocabulary = 31, width = 32;
constexpr std::int32_t end_of_text = vocabulary - 1;
std::int32_t follower(std::int32_t word) { return (7 * word + 3) % end_of_text; }
}  // namespace language
using language::end_of_text;

struct embedding_and_head {
  std::shared_ptr<std::vector<float>> numbers =
      std::make_shared<std::vector<float>>(language::vocabulary * language::width);
  embedding_and_head() {
    dx::rng random(1);
    for (float& x : *numbers) x = static_cast<float>(random.normal());
  }
  dx::frozen_matrix matrix() const {
    return {numbers->data(), dx::dtype::f32, language::vocabulary, language::width};
  }
};

// 1. Data from memory: documents, each ended by its token.
dx::token_text documents(int count, std::uint64_t seed) {
  dx::token_text text;
  dx::rng random(seed);
  for (int i = 0; i < count; ++i) {
    std::vector<std::int32_t> document = {static_cast<std::int32_t>(random.below(end_of_text))};
    while (document.size() < 20)
      document.push_back(random.uniform() < 0.8 ? language::follower(document.back())
                                                : static_cast<std::int32_t>(random.below(end_of_text)));
    document.push_back(end_of_text);
    text.append(document);
  }
  return text;
}

// 2. A source of one's own: the final hidden states of somebody who knows the language. All rows are to be filled.
struct linguist final : dx::teacher_source<float, cpu> {
  embedding_and_head known;
  dx::index layers() const override { return 1; }
  dx::index vocabulary() const override { return language::vocabulary; }
  void fill(cpu&, const std::vector<dx::index>&, const dx::device_batch<cpu>& tokens,
            const dx::teacher_signals<float>& out) override {
    for (dx::index r = 0; r < tokens.view().rows(); ++r) {
      const float* next = known.numbers->data() + language::follower(tokens.ids()[r]) * language::width;
      std::transform(next, next + language::width, out.last_hidden.row(r), [](float x) { return 0.25f * x; });
    }
  }
};

// What such a source says of every window, written down once.
void write_cache(cpu& device, dx::teacher_source<float, cpu>& source,
                 const embedding_and_head& embedding_and_head, const dx::token_windows& windows,
                 const std::filesystem::path& folder) {
  dx::cache_identity about;
  about.teacher = "a linguist", about.windows = windows.count(), about.length = windows.length();
  about.width = language::width, about.layers = source.layers(), about.alignment = "none";
  dx::cache_writer out(folder, about, dx::dtype::f32);
  const dx::signal_memory<float, cpu> memory(device, 8 * windows.length(), language::width, {});  // 8 at a time
  dx::append_windows(device, out, source, windows, memory, [](dx::index) {});
  out.finish(device, embedding_and_head.matrix(), embedding_and_head.matrix());
}

// 3. A schedule in a namespace of one's own: arithmetic finds it by what it derives from.
namespace mine {
struct saw : dx::schedule::arithmetic {
  using scalar = double;
  dx::index period = 20;
  double at(const dx::schedule::clock& c) const {
    return static_cast<double>(c.step % period) / static_cast<double>(period);
  }
};
}  // namespace mine

auto layers() {
  return dx::stack{
      dx::repeated(2, dx::residual{dx::sequential{dx::layer_norm<>{language::width},
                                                  dx::slstm{.width = language::width, .heads = 2}}})};
}
using student_type = dx::model<decltype(layers()), float, cpu>;
student_type make_student(cpu& device, const embedding_and_head& embedding_and_head) {
  return {device, layers(), embedding_and_head.matrix(), embedding_and_head.matrix(),
          embedding_and_head.numbers};
}

int main() {
  using namespace dx::loss;
  cpu device;
  const embedding_and_head embedding_and_head;
  const dx::token_text text = documents(600, 2), held_out = documents(60, 3);
  const dx::token_windows windows(text, 32);
  student_type student = make_student(device, embedding_and_head);
  student.initialise(device, 1);

  // ... in an order of one's own, the first windows again and again, by a rate and weights that are lambdas.
  linguist source;
  const auto objective =
      0.5 * (1 - mine::saw{}) * kl([](dx::schedule::clock c) { return c.step < 30 ? 2.0 : 1.0; }) +
      cross_entropy();
  const dx::training_options options{
      .batch = 8,
      .length = 32,
      .total_steps = 120,
      .window_of = [n = windows.count() / 2](dx::index row) { return row % n; },
      .rate = [](const dx::schedule::clock& c) { return c.step < 60 ? 1e-2 : 3e-3; }};
  dx::trainer trainer(device, student, windows, source, objective, options);

  // 4. The score of a text that nobody trains on, and the best student so far.
  const double before = dx::score(device, student, held_out).perplexity();
  double best = before;
  auto best_weights = student.weights();
  const auto folder = std::filesystem::temp_directory_path() / "distil_xlstm-short_programs";
  const dx::checkpoints store(folder / "checkpoints");
  while (trainer.step_count() < 120) {
    trainer.step();
    if (trainer.step_count() == 60) store.save(trainer, {{"text", "documents"}});
    if (trainer.step_count() % 20 > 0) continue;
    const double now = dx::score(device, student, held_out).perplexity();
    std::cout << "step " << trainer.step_count() << ": perplexity " << now << '\n';
    if (now < best) best = now, best_weights = student.weights();
  }
  const auto last_weights = student.weights();
  student.initialise(device, 9);  // whatever became of it:
  student.weights() = best_weights;
  const bool learnt = best < 0.4 * before && dx::score(device, student, held_out).perplexity() == best;

  // 5. In a file without embedding and head, which every student of one teacher shares.
  const auto file = folder / "stack.safetensors";
  dx::save_stack(device, student, file);
  student_type loaded = make_student(device, embedding_and_head);
  dx::load_tensors(device, loaded, file);

  // 6. Two threads over one student, each with a device of its own.
  const student_type& shared = loaded;
  std::vector<std::int32_t> written[2];
  const auto write = [&](int i) {
    cpu own(1);
    dx::generate(own, shared, std::vector<std::int32_t>{5}, 30, {.temperature = 0}, [&](std::int32_t id) {
      written[i].push_back(id);
      return id != end_of_text;
    });
  };
  std::thread other(write, 1);
  write(0);
  other.join();

  // 7. A text goes on next day, in another process, where its bytes have come to: they are all that it remembers.
  std::vector<std::int32_t> first, second;
  std::vector<std::byte> overnight;
  {
    dx::decoder texts(device, shared, {.capacity = 1});
    const auto chat = texts.join(std::vector<std::int32_t>{5}, {.temperature = 1, .seed = 4});
    for (int i = 0; i < 10; ++i) texts.step([&](auto, std::int32_t id) { return first.push_back(id), true; });
    overnight = texts.save(chat);
    for (int i = 0; i < 10; ++i) texts.step([&](auto, std::int32_t id) { return first.push_back(id), true; });
  }
  dx::decoder texts(device, shared, {.capacity = 1});
  texts.join(overnight);
  for (int i = 0; i < 10; ++i) texts.step([&](auto, std::int32_t id) { return second.push_back(id), true; });
  const bool goes_on = std::equal(second.begin(), second.end(), first.begin() + 10, first.end());

  // 8. The run goes on from its checkpoint, with a cache in place of the source: to the same weights.
  write_cache(device, source, embedding_and_head, windows, folder / "cache");
  const dx::teacher_cache cache(folder / "cache");
  dx::cached_teacher<float, cpu> from_cache(cache);
  student_type other_student = make_student(device, embedding_and_head);
  dx::trainer resumed(device, other_student, windows, from_cache, objective, options);
  store.restore(resumed, [](const std::string& why) { std::cerr << why << '\n'; });
  while (resumed.step_count() < 120) resumed.step();
  const bool same = std::equal(last_weights.data(), last_weights.data() + last_weights.size(),
                               other_student.weights().data());
  std::filesystem::remove_all(folder);

  std::cout << "perplexity " << before << " before, " << best << " at best; the text's memory has "
            << overnight.size() << " bytes\n";
  return learnt && !written[0].empty() && written[0] == written[1] && goes_on && same ? 0 : 1;
}
