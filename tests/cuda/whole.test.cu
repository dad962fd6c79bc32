#include "gpu.hpp"

#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include <distil_xlstm/block/attention.hpp>
#include <distil_xlstm/block/mlstm.hpp>
#include <distil_xlstm/block/slstm.hpp>
#include <distil_xlstm/device/cpu.hpp>
#include <distil_xlstm/device/cuda.cuh>
#include <distil_xlstm/distil/checkpoint.hpp>
#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/model/load_linearised.hpp>
#include <distil_xlstm/testing/check_block.hpp>
#include <distil_xlstm/testing/check_device.hpp>

#include "../comparison/whole.hpp"

// All that a program does, on the GPU: trained, written, restored, cached, scored, continued, as on the CPU.
namespace distil_xlstm {
namespace {

namespace fs = std::filesystem;
using device::cpu;
using device::cuda;
using testing::small_training;
using testing::temporary_folder;

const fs::path data = DISTIL_XLSTM_TEST_DATA;
const fs::path small_teacher = data / "data/teacher";

template <class T>
constexpr double limit = sizeof(T) == 8 ? 1e-10 : 2e-4;

void near(const std::string& what, double got, double want, double most) {
  const double off = std::abs(got - want) / std::max(std::abs(want), 1e-3);
  BOOST_TEST_MESSAGE(what << ": " << got << ", off by " << off);
  BOOST_TEST(off <= most, what << ": " << got << " instead of " << want);
}

/// T on the GPU beside double on the CPU.
template <class T, class D>
void train_alike(D& gpu, loss::alignment form, double most) {
  const temporary_folder folder;
  cpu host(2);
  const auto text = testing::text_of(folder.path / "text", 96);
  small_training<double, cpu> x(host, small_teacher, text, form);
  small_training<T, D> y(gpu, small_teacher, text, form);
  auto p = x.make_trainer();
  auto q = y.make_trainer();
  for (int i = 0; i < 3; ++i) {
    const auto m = p.step(), n = q.step();
    near("total", n.total, m.total, most), near("norm", n.grad_norm, m.grad_norm, 10 * most);
    near("kl", n["kl"], m["kl"], 10 * most);
  }
  // A checkpoint goes on as the run does, bit for bit.
  const checkpoints store(folder.path / "checkpoints");
  store.save(q, {{"seed", 4}});
  small_training<T, D> again(gpu, small_teacher, text, form);
  auto r = again.make_trainer();
  BOOST_REQUIRE(store.restore(r, [](const std::string& why) { BOOST_ERROR(why); }));
  for (int i = 0; i < 2; ++i) BOOST_TEST(r.step().total == q.step().total);
  // A student that was saved is the same when it is loaded, embedding and head too.
  save_xlstm(gpu, y.student, folder.path / "student", dtype_of<T>);
  const auto loaded = load_xlstm<T>(gpu, folder.path / "student");
  const auto on_cpu = load_xlstm<T>(host, folder.path / "student");
  BOOST_TEST((testing::on_host(gpu, static_cast<const T*>(loaded.weights().data()), loaded.weights().size()) ==
              y.weights()));
  const io::safetensors_file saved(folder.path / "student/model.safetensors"),
      original(small_teacher / "model.safetensors");
  BOOST_TEST((saved.at("token_embedding.weight").values<double>() ==
              original.at("model.embed_tokens.weight").values<double>()));
  // From a cache.
  y.write_cache(folder.path / "cache", text.data_sha256());
  const teacher_cache cache(folder.path / "cache");
  cached_teacher<T, D> source(cache);
  const auto ends = upload_embedding_and_head<T>(gpu, cache.embedding(), cache.head(), cache.owner());
  small_training<T, D> z(gpu, small_teacher, text, form), live(gpu, small_teacher, text, form);
  z.student = xlstm<T, D>(gpu, z.shape(z.teacher), ends.embedding, ends.head, ends.owner);
  z.student.initialise(gpu, 3);
  auto from_cache = z.make_trainer(source);
  auto from_teacher = live.make_trainer();
  for (int i = 0; i < 2; ++i) near("cached", from_cache.step().total, from_teacher.step().total, 1e-6);
}

/// A student whose products find another copy of its weights than the one that its trainer holds: `copy`, or none.
template <class D>
struct student_of_another_copy : linearised_model<float, D> {
  using base = linearised_model<float, D>;
  const bf16* copy;
  student_of_another_copy(base&& b, const bf16* c) : base(std::move(b)), copy(c) {}
  template <class... Arguments>
  void forward(D& d, Arguments&&... arguments) const {
    const auto held = hold(d);
    base::forward(d, std::forward<Arguments>(arguments)...);
  }
  template <class... Arguments>
  void backward(D& d, Arguments&&... arguments) const {
    const auto held = hold(d);
    base::backward(d, std::forward<Arguments>(arguments)...);
  }

 private:
  auto hold(D& d) const {
    const auto& w = this->weights();
    BOOST_TEST((d.operand_copies().find_held(w.data(), w.size()) != nullptr), "the trainer holds no copy");
    return d.hold_rounded(copy ? w.data() : nullptr, copy ? w.size() : 0, copy);
  }
};

template <class T>
void read_alike(cuda& gpu, const fs::path& path, double most) {
  const temporary_folder folder;
  cpu host(2);
  const auto text =
      testing::text_of(folder.path / "text", load_language_model<double>(host, path).vocabulary());
  const auto x = testing::read_all<double>(host, path, text, small_teacher);
  const auto y = testing::read_all<T>(gpu, path, text, small_teacher);
  BOOST_TEST_CONTEXT(path.filename().string()) {
    near("nll", y.plain.nll, x.plain.nll, most);
    BOOST_TEST(x.plain.scored == y.plain.scored);
    BOOST_TEST(std::abs(y.kl - x.kl) <= most * x.plain.nll);
    near("carried nll", y.carried.nll, x.carried.nll, most);
    BOOST_TEST(x.answers.size() == y.answers.size());
    for (std::size_t i = 0; i < std::min(x.answers.size(), y.answers.size()); ++i) {
      near("answer", y.answers[i].sum_logprob, x.answers[i].sum_logprob, most);
      BOOST_TEST(x.answers[i].all_argmax() == y.answers[i].all_argmax());
    }
    BOOST_TEST(x.written == y.written);
    BOOST_REQUIRE(x.hidden.size() == y.hidden.size());
    double worst = 0, largest = 0;
    for (std::size_t i = 0; i < x.hidden.size(); ++i) {
      worst = std::max(worst, std::abs(static_cast<double>(y.hidden[i]) - x.hidden[i]));
      largest = std::max(largest, std::abs(x.hidden[i]));
    }
    BOOST_TEST_MESSAGE(path.filename().string() << ": hidden off by " << worst / largest);
    BOOST_TEST(worst <= most * largest);
  }
}

}  // namespace

BOOST_AUTO_TEST_CASE(every_verb_is_its_naive_loop) {
  cuda gpu;
  for (const auto& report : {testing::check_device<float>(gpu), testing::check_device<double>(gpu)})
    BOOST_TEST(report.ok(), report.text);
  cuda other;
  BOOST_TEST(testing::check_same_results<float>(gpu, other).ok());
}

BOOST_AUTO_TEST_CASE(laws_of_blocks) {
  cuda gpu;
  const testing::block_options few{.time = 5, .samples = 2};
  const attention bounded{.width = 4, .heads = 2, .kv_heads = 1, .head_dim = 2, .capacity = 10};
  for (const auto& report : {testing::check_block(gpu, slstm{.width = 4, .heads = 2}, few),
                             testing::check_block(gpu, mlstm{.width = 4, .heads = 2, .inner = 8}, few),
                             testing::check_block(gpu, bounded, few)})
    BOOST_TEST(report.ok(), report.text);
}

BOOST_AUTO_TEST_CASE(trainings) {
  cuda gpu;
  train_alike<double>(gpu, loss::alignment::average, limit<double>);
  train_alike<float>(gpu, loss::alignment::ratio, limit<float>);
  device::basic_cuda<bf16_mixed> rounding;
  train_alike<float>(rounding, loss::alignment::average, 2e-2);
}

BOOST_AUTO_TEST_CASE_TEMPLATE(recorded_steps, P, float_precisions) {
  device::basic_cuda<P> gpu;
  const temporary_folder folder;
  const auto text = testing::text_of(folder.path / "text", 96);
  testing::train_recorded<float>(gpu, small_teacher, text,
                                 [](const char* what, bool same) { BOOST_TEST(same, what); });
}

// Weights that are rounded once a step are those of the step: after each update, and when others take their place.
BOOST_AUTO_TEST_CASE(weights_are_rounded_in_every_step) {
  using D = device::basic_cuda<bf16_mixed>;
  D gpu;
  const temporary_folder folder;
  const auto text = testing::text_of(folder.path / "text", 96);
  const auto teacher = load_llama<float>(gpu, small_teacher);
  live_teacher live(teacher);
  const token_windows cut(text, 9);
  training_options options;
  options.batch = 12, options.length = 9, options.accumulate = 2, options.total_steps = 8, options.lr = {1e-2};
  const auto run = [&](auto student) {
    trainer t(gpu, student, cut, live, loss::kl(1.7) + 0.3 * loss::frobenius(), options);
    std::vector<double> all;
    const auto steps = [&](int count) {
      for (int i = 0; i < count; ++i) {
        const auto m = t.step();
        all.push_back(m.total), all.push_back(m.grad_norm);
      }
    };
    const auto first = student.weights();
    steps(4);
    BOOST_TEST(t.recorded());
    student.weights() = first;
    steps(2);
    const auto last = testing::on_host(gpu, static_cast<const float*>(student.weights().data()), first.size());
    all.insert(all.end(), last.begin(), last.end());
    return all;
  };
  linearised_config mixers;
  mixers.mixers = {mixer_kind::hybrid, mixer_kind::attention}, mixers.window = 4, mixers.features = 8;
  const auto student = [&] { return linearise<float>(gpu, small_teacher, mixers, 3); };
  using other = student_of_another_copy<D>;
  const auto want = run(student());
  BOOST_TEST((want == run(other(student(), nullptr))));
  // That products read what is held: of zeros they would make other numbers.
  const std::vector<bf16> zeros(static_cast<std::size_t>(student().weights().size()));
  const buffer<bf16, D> none(gpu, std::ssize(zeros));
  gpu.upload(none.data(), zeros.data(), none.size() * index{sizeof(bf16)});
  BOOST_TEST((want != run(other(student(), none.data()))));
}

BOOST_AUTO_TEST_CASE(readings) {
  cuda gpu;
  for (const char* name : {"data/teacher", "golden/teacher/qwen2_rope_theta", "golden/student/base",
                           "golden/student/stored_f16", "golden/large/caps"}) {
    read_alike<double>(gpu, data / name, limit<double>);
    read_alike<float>(gpu, data / name, limit<float>);
  }
}

}  // namespace distil_xlstm
