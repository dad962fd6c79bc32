#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <cmath>
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
#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/testing/check_block.hpp>
#include <distil_xlstm/testing/check_device.hpp>

#include "../comparison/batch.hpp"
#include "../comparison/linearised.hpp"
#include "../comparison/whole.hpp"
#include "../model/write_gguf.hpp"
#include "fenced.hpp"

// All that a program does, on a device whose memory is not the host's: the CPU behind a fence, which runs the defaults
// of any device. Its numbers are bit for bit those of the CPU.
namespace distil_xlstm {
namespace {

namespace fs = std::filesystem;
using device::cpu;
using testing::fenced;
using testing::small_training;
using testing::temporary_folder;

const fs::path data = DISTIL_XLSTM_TEST_DATA;
const fs::path small_teacher = data / "data/teacher";

std::string bytes_of(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

template <class T>
bool same(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

template <class T, class A, class B>
void train_alike(A& a, B& b, const fs::path& model, loss::alignment form) {
  const temporary_folder folder;
  const auto text = testing::text_of(folder.path / "text", load_llama<T>(a, model).vocabulary());
  small_training<T, A> x(a, model, text, form);
  small_training<T, B> y(b, model, text, form);
  auto p = x.make_trainer();
  auto q = y.make_trainer();
  for (int i = 0; i < 3; ++i) {
    const auto m = p.step(), n = q.step();
    BOOST_TEST(m.total == n.total);
    BOOST_TEST(m.grad_norm == n.grad_norm);
    BOOST_TEST(m["alignment"] == n["alignment"]);
  }
  BOOST_TEST(same(x.weights(), y.weights()));

  // What is written is the same, byte by byte, and each goes on from it.
  save_xlstm(a, x.student, folder.path / "a"), save_xlstm(b, y.student, folder.path / "b");
  BOOST_TEST((bytes_of(folder.path / "a/model.safetensors") == bytes_of(folder.path / "b/model.safetensors")));
  const checkpoints store(folder.path / "checkpoints");
  store.save(q, {{"seed", 4}});
  const auto refuse = [](const std::string& why) { BOOST_ERROR(why); };
  small_training<T, A> again(a, model, text, form);
  small_training<T, B> once_more(b, model, text, form);
  auto r = again.make_trainer();
  auto s = once_more.make_trainer();
  BOOST_REQUIRE(store.restore(r, refuse));
  BOOST_REQUIRE(store.restore(s, refuse));
  for (int i = 0; i < 2; ++i) {
    const double total = p.step().total;
    BOOST_TEST(r.step().total == total);
    BOOST_TEST(s.step().total == total);
  }
}

template <class T>
void read_alike(const fs::path& path) {
  const temporary_folder folder;
  cpu a(2);
  fenced b(2);
  const auto text = testing::text_of(folder.path / "text", load_language_model<T>(a, path).vocabulary());
  const auto x = testing::read_all<T>(a, path, text, small_teacher);
  const auto y = testing::read_all<T>(b, path, text, small_teacher);
  // A compiler may contract the last sums of the one and not of the other.
  const auto nearly = boost::test_tools::tolerance(sizeof(T) == 8 ? 1e-14 : 1e-6);
  BOOST_TEST_CONTEXT(path.filename().string()) {
    BOOST_TEST(x.plain.nll == y.plain.nll, nearly);
    BOOST_TEST(x.plain.scored == y.plain.scored);
    BOOST_TEST(std::abs(x.kl - y.kl) <= (sizeof(T) == 8 ? 1e-14 : 1e-6) * x.plain.nll);
    BOOST_TEST(x.carried.nll == y.carried.nll, nearly);
    BOOST_TEST(x.answers.size() == y.answers.size());
    for (std::size_t i = 0; i < std::min(x.answers.size(), y.answers.size()); ++i) {
      BOOST_TEST(x.answers[i].sum_logprob == y.answers[i].sum_logprob, nearly);
      BOOST_TEST(x.answers[i].all_argmax() == y.answers[i].all_argmax());
    }
    BOOST_TEST(x.written == y.written);
    BOOST_TEST(x.drawn == y.drawn);
    BOOST_TEST(same(x.hidden, y.hidden));
  }
}

}  // namespace

BOOST_AUTO_TEST_CASE(recorded_steps) {
  const temporary_folder folder;
  fenced d(2);
  const auto text = testing::text_of(folder.path / "text", 96);
  testing::train_recorded<float>(d, small_teacher, text,
                                 [](const char* what, bool same) { BOOST_TEST(same, what); });
  BOOST_TEST(d.launches() > 30);
}

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
  const frozen_matrix table{inside.data(), dtype::f32, 2, 2};
  if (fenced::looks_into_functors)
    BOOST_CHECK_THROW(embed(d, table, ids, matrix_view<float>(other.data(), 2, 2)), error);
  device_copy<std::int32_t, fenced> tokens;
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

// The defaults of any device.
BOOST_AUTO_TEST_CASE(tokens_are_chosen_as_by_a_sampler) {
  fenced d(2);
  testing::chooses_as_a_sampler<double>(d);
  testing::chooses_as_a_sampler<float>(d);
  testing::chooses_what_is_possible<double>(d);
  testing::chooses_what_is_possible<float>(d);
}

BOOST_AUTO_TEST_CASE(laws_are_tried_behind_it) {
  fenced d(2);
  for (const auto& report : {testing::check_device<float>(d), testing::check_device<double>(d)})
    BOOST_TEST(report.ok(), report.text);
  const testing::block_options few{.time = 5, .samples = 3};
  const attention bounded{.width = 4, .heads = 2, .kv_heads = 1, .head_dim = 2, .capacity = 10};
  for (const auto& report : {testing::check_block(d, slstm{.width = 4, .heads = 2}, few),
                             testing::check_block(d, mlstm{.width = 4, .heads = 2, .inner = 8}, few),
                             testing::check_block(d, bounded, few)})
    BOOST_TEST(report.ok(), report.text);
}

BOOST_AUTO_TEST_CASE(a_linearised_transformer_is_the_reference) {
  fenced d(2);
  for (const auto& folder : testing::golden_models(data / "golden/linearised"))
    for (const auto& e : testing::linearised_errors<double>(d, folder))
      BOOST_TEST(e.error <= testing::tolerance<double>::reference_gradient(0),
                 e.name << ": off by " << e.error);
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
  device::basic_cpu<bf16_mixed> a(2);
  using fenced = testing::basic_fenced<bf16_mixed>;
  fenced b(2);
  for (const char* name : {"llama_rope_parameters", "llama_bf16"})
    train_alike<float>(a, b, data / "golden/teacher" / name, loss::alignment::average);
  const auto teacher = load_llama<float>(b, data / "golden/teacher/llama_rope_parameters");
  BOOST_TEST((teacher.embedding().dtype == dtype::f32));
  BOOST_TEST(teacher.embedding().bf16_copy != nullptr);
  BOOST_TEST(teacher.embedding().data == teacher.head().data);
  const auto stored = load_llama<float>(b, data / "golden/teacher/llama_bf16");
  BOOST_TEST((stored.embedding().dtype == dtype::bf16));
}

BOOST_AUTO_TEST_CASE(a_cache_is_that_of_the_cpu) {
  const temporary_folder folder;
  cpu a(2);
  fenced b(2);
  const auto text = testing::text_of(folder.path / "text", 96);
  small_training<float, cpu> x(a, small_teacher, text, loss::alignment::ratio);
  small_training<float, fenced> y(b, small_teacher, text, loss::alignment::ratio);
  x.write_cache(folder.path / "a", text.data_sha256()), y.write_cache(folder.path / "b", text.data_sha256());
  for (const auto& f : fs::directory_iterator(folder.path / "a"))
    BOOST_TEST((bytes_of(f.path()) == bytes_of(folder.path / "b" / f.path().filename())), f.path().filename());

  // A student between the embedding and head of a cache.
  const teacher_cache cache(folder.path / "b");
  cached_teacher<float, cpu> from_a(cache);
  cached_teacher<float, fenced> from_b(cache);
  const auto ends = upload_embedding_and_head<float>(b, cache.embedding(), cache.head(), cache.owner());
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

BOOST_AUTO_TEST_CASE(what_does_not_fit_is_refused_before_the_device_sees_it) {
  fenced d(1);
  const auto model = load_language_model<float>(d, small_teacher);
  const index width = model.width();
  const buffer<float, fenced> h(d, 5 * width);
  reader read(d, model);
  reader session(d, model, 4);
  const std::vector<std::int32_t> wrong = {1, 96}, long_text = {1, 2, 3, 4, 5};
  BOOST_CHECK_THROW(read(1, 2, wrong, {h.data(), 2, width}), error);
  BOOST_CHECK_THROW(session.read(wrong, {h.data(), 2, width}), error);
  BOOST_CHECK_THROW(session.read(long_text, {h.data(), 5, width}), error);
  session.read(std::span(long_text).first(4), {h.data(), 4, width});
  BOOST_CHECK_THROW(session.read(std::span(long_text).first(1), {h.data(), 1, width}), error);
  BOOST_CHECK_THROW(score_text<float>(d, token_text{wrong}, 2, 1, model.head(), read), error);
}

}  // namespace distil_xlstm
