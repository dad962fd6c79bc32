#define BOOST_TEST_MODULE fenced
#include <boost/test/unit_test.hpp>

#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include <sys/wait.h>
#include <unistd.h>

#include <distil_xlstm/block/attention.hpp>
#include <distil_xlstm/block/mlstm.hpp>
#include <distil_xlstm/block/slstm.hpp>
#include <distil_xlstm/distil/checkpoint.hpp>
#include <distil_xlstm/distil/evaluate.hpp>
#include <distil_xlstm/distil/perplexity.hpp>
#include <distil_xlstm/distil/teacher_cache.hpp>
#include <distil_xlstm/distil/trainer.hpp>
#include <distil_xlstm/io/tokenizer.hpp>
#include <distil_xlstm/loss/distillation.hpp>
#include <distil_xlstm/model/generate.hpp>
#include <distil_xlstm/model/language_model.hpp>
#include <distil_xlstm/testing/check_block.hpp>
#include <distil_xlstm/testing/check_device.hpp>

#include "../model/write_gguf.hpp"
#include "fenced.hpp"

// All that a program does, on a device whose memory is not the host's: the CPU behind a fence, whose numbers
// are bit for bit those of the CPU. Neither includes the CPU's own kernels: both run the defaults of any
// device.
namespace distil_xlstm {
namespace {

namespace fs = std::filesystem;
using device::cpu;
using testing::fenced;
using testing::on_host;

const fs::path data = DISTIL_XLSTM_TEST_DATA;
const fs::path small_teacher = data / "data/teacher";

struct temporary_folder {
  fs::path path = fs::temp_directory_path() / ("distil_xlstm-fenced-" + std::to_string(::getpid()));
  temporary_folder() { fs::create_directories(path); }
  ~temporary_folder() { fs::remove_all(path); }
};

std::string bytes_of(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

template <class T>
bool same(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

/// A text of several documents in a file.
io::token_file text_of(const fs::path& path, index vocabulary) {
  rng random(5);
  std::vector<std::int32_t> ids;
  for (index i = 0; i < 300; ++i)
    ids.push_back(static_cast<std::int32_t>(random.below(static_cast<std::uint64_t>(vocabulary))));
  io::write_token_file(path, ids, std::vector<std::int64_t>{0, 13, 14, 40, 90, 222}, vocabulary);
  return io::token_file(path);
}

/// One device's share of a comparison: a teacher, a student of it, and a trainer.
template <class T, class D>
struct run {
  D& device;
  llama<T, D> teacher;
  xlstm<T, D> student;
  windows cut;
  alignment_plan plan;
  live_teacher<llama<T, D>> live;
  training_options options;
  loss::distillation objective;

  static xlstm_config shape(const llama<T, D>& t) {
    auto c = xlstm_architecture("default", t.vocabulary(), t.width(), t.config().layers, t.config().heads,
                                t.config().tied);
    c.blocks = 2, c.slstm_at = {0};
    return c;
  }
  run(D& d, const fs::path& model, const io::token_file& text, loss::alignment form)
      : device(d),
        teacher(llama<T, D>::load(d, model)),
        student(d, shape(teacher), teacher.embedding(), teacher.head(), teacher.owner()),
        cut(text, 9),
        plan(alignment_plan::make(form, teacher.config().layers, 2)),
        live(teacher, plan) {
    student.initialise(d, 3);
    options.batch = 3, options.length = 9, options.accumulate = 2, options.total_steps = 8;
    options.lr = {1e-2};
    objective.alpha = 0.5, objective.beta = 0.3, objective.temperature = 1.7, objective.form = form;
  }
  auto make_trainer(teacher_source<T, D>& source) {
    return trainer<xlstm<T, D>, loss::distillation>(device, student, cut, source, plan, objective, options);
  }
  auto make_trainer() { return make_trainer(live); }
  std::vector<T> weights() {
    return on_host(device, static_cast<const T*>(student.weights().data()), student.weights().size());
  }
};

template <class T, class A, class B>
void train_alike(A& a, B& b, const fs::path& model, loss::alignment form) {
  const temporary_folder folder;
  const auto vocabulary = llama<T, cpu>::load(*std::make_unique<cpu>(1), model).vocabulary();
  const auto text = text_of(folder.path / "text", vocabulary);
  run<T, A> x(a, model, text, form);
  run<T, B> y(b, model, text, form);
  auto p = x.make_trainer();
  auto q = y.make_trainer();
  for (int i = 0; i < 3; ++i) {
    const auto m = p.step(), n = q.step();
    BOOST_TEST(m.total == n.total);
    BOOST_TEST(m.grad_norm == n.grad_norm);
    BOOST_TEST(m["alignment"] == n["alignment"]);
  }
  BOOST_TEST(same(x.weights(), y.weights()));

  // What is written is the same, byte by byte.
  x.student.save(a, folder.path / "a"), y.student.save(b, folder.path / "b");
  BOOST_TEST((bytes_of(folder.path / "a/model.safetensors") == bytes_of(folder.path / "b/model.safetensors")));
  const checkpoints store(folder.path / "checkpoints");
  store.save(q, {{"seed", 4}});
  run<T, A> again(a, model, text, form);
  auto r = again.make_trainer();
  BOOST_REQUIRE(store.restore(r, [](const std::string& why) { BOOST_ERROR(why); }));
  run<T, B> once_more(b, model, text, form);
  auto s = once_more.make_trainer();
  BOOST_REQUIRE(store.restore(s, [](const std::string& why) { BOOST_ERROR(why); }));
  for (int i = 0; i < 2; ++i) {
    const double total = p.step().total;
    BOOST_TEST(r.step().total == total);
    BOOST_TEST(s.step().total == total);
  }
}

template <class T, class D>
struct readings {
  text_score plain, carried;
  std::vector<io::request_score> answers;
  std::vector<std::int32_t> written;
  std::vector<T> hidden;
};

template <class T, class D>
auto read_all(D& d, const fs::path& path, const io::token_file& text) {
  readings<T, D> out;
  const auto model = language_model<T, D>::load(d, path);
  typename language_model<T, D>::reader read(d, model);
  out.plain = score_text<T>(d, text, 17, 3, model.head(), read);
  const io::tokenizer tokenizer(io::read_tokenizer(small_teacher));
  const std::vector<io::document> documents = {{0, 0, {{"Of all the inv", "entions"}}},
                                               {1, 0, {{"", "the alphabet"}, {"and the print", "ing press"}}}};
  if (model.vocabulary() >= tokenizer.vocab_size())
    out.answers = score_requests<T>(d, documents, tokenizer, model.head(), 2, read, [](index, index) {});

  std::vector<std::int32_t> prompt;
  for (index i = 0; i < 7; ++i) prompt.push_back(text[i]);
  typename language_model<T, D>::session session(d, model, 40);
  sampler choose({.temperature = 0.8, .seed = 3});
  generate(d, session, prompt, 9, choose, [&](std::int32_t id) {
    out.written.push_back(id);
    return true;
  });
  // The state is saved, and goes on.
  const auto saved = session.save();
  const buffer<T, D> h(d, model.width() * 3);
  session.read(std::span(prompt).first(3), {h.data(), 3, model.width()});
  session.restore(saved);
  session.read(std::span(prompt).first(3), {h.data(), 3, model.width()});
  out.hidden = on_host(d, h);
  BOOST_CHECK_THROW(session.read(std::vector<std::int32_t>{-1}, {h.data(), 1, model.width()}), error);
  // Whole texts, and every layer of them.
  const buffer<T, D> whole(d, model.width() * 6);
  read(2, 3, std::span(prompt).first(6), {whole.data(), 6, model.width()}, [&](index, matrix_view<const T> y) {
    const auto more = on_host(d, y.data, y.size());
    out.hidden.insert(out.hidden.end(), more.begin(), more.end());
  });
  if (const auto* s = model.student()) {
    auto state = s->make_state(d, 1);
    const buffer<T, D> x(d, 17 * s->width());
    out.carried = score_text<T>(
        d, text, 17, 1, s->head(),
        [&](sequence_view seq, const std::int32_t* ids, matrix_view<T> y) {
          const auto tape = s->make_tape(d, seq.batch, seq.time);
          s->forward(d, seq, ids, state, tape, {x.data(), seq.rows(), s->width()}, y);
        },
        window_state::carried);
  }
  return out;
}

template <class T>
void read_alike(const fs::path& path) {
  const temporary_folder folder;
  cpu a(2);
  fenced b(2);
  const auto text = text_of(folder.path / "text", language_model<T, cpu>::load(a, path).vocabulary());
  const auto x = read_all<T>(a, path, text);
  const auto y = read_all<T>(b, path, text);
  BOOST_TEST_CONTEXT(path.filename().string()) {
    BOOST_TEST(x.plain.nll == y.plain.nll);
    BOOST_TEST(x.plain.scored == y.plain.scored);
    BOOST_TEST(x.carried.nll == y.carried.nll);
    BOOST_TEST(x.answers.size() == y.answers.size());
    for (std::size_t i = 0; i < std::min(x.answers.size(), y.answers.size()); ++i) {
      BOOST_TEST(x.answers[i].sum_logprob == y.answers[i].sum_logprob);
      BOOST_TEST(x.answers[i].all_argmax == y.answers[i].all_argmax);
    }
    BOOST_TEST(x.written == y.written);
    BOOST_TEST(same(x.hidden, y.hidden));
  }
}

}  // namespace

BOOST_AUTO_TEST_CASE(the_fence_stands) {
  fenced d(1);
  const buffer<float, fenced> inside(d, 8), other(d, 8);
  float outside[8] = {};
  BOOST_CHECK_THROW(d.upload(outside, outside, 4), error);
  BOOST_CHECK_THROW(d.upload(inside.data(), other.data(), 4), error);
  BOOST_CHECK_THROW(d.download(inside.data(), outside, 4), error);
  BOOST_CHECK_THROW(d.copy(inside.data(), outside, 4), error);
  const matrix_view<float> m(inside.data(), 2, 2), wrong(outside, 2, 2);
  BOOST_CHECK_THROW(gemm(d, wrong, m, m), error);
  BOOST_CHECK_THROW(gemm(d, m, transposed(matrix_view<const float>(wrong)), m), error);
  const std::int32_t ids[] = {0, 1};
  const frozen_matrix table{inside.data(), element::f32, 2, 2};
  if (fenced::looks_into_functors)
    BOOST_CHECK_THROW(embed(d, table, ids, matrix_view<float>(other.data(), 2, 2)), error);
  placed<std::int32_t, fenced> tokens;
  embed(d, table, tokens.put(d, ids, 2), matrix_view<float>(other.data(), 2, 2));
  // The host does not survive a look at it.
  const pid_t child = ::fork();
  BOOST_REQUIRE(child >= 0);
  if (child == 0) {
    std::signal(SIGSEGV, SIG_DFL);
    [[maybe_unused]] const float seen = *static_cast<const volatile float*>(inside.data());
    ::_exit(0);
  }
  int status = 0;
  BOOST_REQUIRE(::waitpid(child, &status, 0) == child);
  BOOST_TEST(WIFSIGNALED(status));
}

BOOST_AUTO_TEST_CASE(laws_are_tried_behind_it) {
  fenced d(2);
  for (const auto& report : {testing::check_device<float>(d), testing::check_device<double>(d)})
    BOOST_TEST(report.ok(), report.text);
  const testing::block_options few{.time = 5, .samples = 3};
  for (const auto& report :
       {testing::check_block(d, slstm{.width = 4, .heads = 2}, few),
        testing::check_block(d, mlstm{.width = 4, .heads = 2, .inner = 8}, few),
        testing::check_block(d, attention{.width = 4, .heads = 2, .kv_heads = 1, .head_dim = 2, .capacity = 10},
                             few)})
    BOOST_TEST(report.ok(), report.text);
}

BOOST_AUTO_TEST_CASE(a_training_is_that_of_the_cpu) {
  cpu a(2);
  fenced b(2);
  train_alike<float>(a, b, small_teacher, loss::alignment::average);
  train_alike<double>(a, b, small_teacher, loss::alignment::ratio);
  // With biases and a head of its own; and from a quantised file.
  train_alike<float>(a, b, data / "golden/teacher/qwen2_rope_theta", loss::alignment::average);
  const temporary_folder folder;
  testing::write_gguf(data / "golden/teacher/llama_rope_parameters", folder.path / "teacher.gguf", true);
  train_alike<float>(a, b, folder.path / "teacher.gguf", loss::alignment::average);
}

BOOST_AUTO_TEST_CASE(a_training_with_bfloat16_products_is_that_of_the_cpu) {
  cpu a(2);
  fenced b(2);
  a.bf16_products = b.bf16_products = true;
  for (const char* name : {"llama_rope_parameters", "llama_bf16"})
    train_alike<float>(a, b, data / "golden/teacher" / name, loss::alignment::average);
  const auto teacher = llama<float, fenced>::load(b, data / "golden/teacher/llama_rope_parameters");
  BOOST_TEST((teacher.embedding().kind == element::f32));
  BOOST_TEST(teacher.embedding().rounded != nullptr);
  BOOST_TEST(teacher.embedding().data == teacher.head().data);
  const auto stored = llama<float, fenced>::load(b, data / "golden/teacher/llama_bf16");
  BOOST_TEST((stored.embedding().kind == element::bf16));
}

BOOST_AUTO_TEST_CASE(a_cache_is_that_of_the_cpu) {
  const temporary_folder folder;
  cpu a(2);
  fenced b(2);
  const auto text = text_of(folder.path / "text", 96);
  const auto write = [&](auto& device, auto& x, const fs::path& to) {
    using D = std::remove_cvref_t<decltype(device)>;
    const index targets = static_cast<index>(x.plan.groups.size()), d = x.teacher.width();
    cache_writer out(to, {"t", "00", text.data_sha256(), x.cut.count(), 9, d, 2, "ratio", targets},
                     element::f32);
    const buffer<float, D> memory(device, (1 + targets) * 9 * d);
    teacher_signals<float> s{{memory.data(), 9, d}, {}};
    for (index g = 0; g < targets; ++g) s.targets.push_back({memory.data() + (g + 1) * 9 * d, 9, d});
    token_batch tokens;
    placed_batch<D> batch;
    for (index w = 0; w < x.cut.count(); ++w) {
      x.cut.read({w}, tokens);
      batch.put(device, tokens);
      x.live.fill(device, {w}, batch, s);
      out.append(device, s);
    }
    out.finish(device, x.teacher.embedding(), x.teacher.head());
  };
  run<float, cpu> x(a, small_teacher, text, loss::alignment::ratio);
  run<float, fenced> y(b, small_teacher, text, loss::alignment::ratio);
  write(a, x, folder.path / "a"), write(b, y, folder.path / "b");
  for (const auto& f : fs::directory_iterator(folder.path / "a"))
    BOOST_TEST((bytes_of(f.path()) == bytes_of(folder.path / "b" / f.path().filename())), f.path().filename());

  // A student between the ends of a cache.
  const teacher_cache cache(folder.path / "b");
  cached_teacher<float, cpu> from_a(cache);
  cached_teacher<float, fenced> from_b(cache);
  const auto ends = place_ends<float>(b, cache.embedding(), cache.head(), cache.owner());
  BOOST_TEST(ends.embedding.data == ends.head.data);
  y.student = xlstm<float, fenced>(b, y.shape(y.teacher), ends.embedding, ends.head, ends.owner);
  y.student.initialise(b, 3);
  auto p = x.make_trainer(from_a);
  auto q = y.make_trainer(from_b);
  for (int i = 0; i < 3; ++i) BOOST_TEST(p.step().total == q.step().total);
}

BOOST_AUTO_TEST_CASE(models_are_read_as_on_the_cpu) {
  read_alike<float>(small_teacher);
  read_alike<double>(data / "golden/teacher/qwen2_tied");
  for (const char* name : {"base", "tied", "no_slstm", "stored_f16"})
    read_alike<float>(data / "golden/student" / name);
  read_alike<double>(data / "golden/student/all_slstm");
  read_alike<float>(data / "golden/large/caps");
  read_alike<double>(data / "golden/large/sample");
}

}  // namespace distil_xlstm
