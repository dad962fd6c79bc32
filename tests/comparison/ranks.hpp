#pragma once

#include <stdlib.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <type_traits>
#include <vector>

#include <distil_xlstm/comm/any.hpp>
#include <distil_xlstm/distil/mixer_trainer.hpp>
#include <distil_xlstm/distil/trainer.hpp>
#include <distil_xlstm/io/write_token_file.hpp>
#include <distil_xlstm/loss/distillation.hpp>
#include <distil_xlstm/model/load_linearised.hpp>
#include <distil_xlstm/model/load_llama.hpp>
#include <distil_xlstm/model/xlstm.hpp>
#include <distil_xlstm/testing/on_host.hpp>

#include "tensor_error.hpp"

namespace distil_xlstm::testing {

/// What training was, as every rank sees it.
struct trained {
  std::vector<double> losses;  ///< of each step: the total, the gradients' norm, every term
  std::vector<index> tokens;
  std::vector<double> weights;
  index moments = 0;  ///< how many numbers of a moment the rank keeps
};
/// The largest relative errors of losses and weights; infinite where tokens differ.
struct apart {
  double losses = 0, weights = 0;
  apart(const trained& got, const trained& want) {
    if (got.tokens != want.tokens || got.losses.size() != want.losses.size()) losses = INFINITY;
    for (std::size_t i = 0; i < want.losses.size() && losses < INFINITY; ++i)
      losses = std::max(losses, relative_error(&got.losses[i], &want.losses[i], 1));
    weights = relative_error(got.weights, want.weights);
  }
};
inline bool same(const trained& a, const trained& b) {
  return a.losses == b.losses && a.tokens == b.tokens && a.weights == b.weights;
}

/// Where documents of one token make windows of 9 with many targets, few, and none: some ranks have nothing to score.
class uneven_text {
 public:
  explicit uneven_text(index vocabulary) : folder_(make_folder()), file_(write(folder_ / "text", vocabulary)) {}
  uneven_text(const uneven_text&) = delete;
  uneven_text& operator=(const uneven_text&) = delete;
  ~uneven_text() { std::filesystem::remove_all(folder_); }
  const io::token_file& file() const { return file_; }

 private:
  static std::filesystem::path make_folder() {
    std::string name = (std::filesystem::temp_directory_path() / "distil_xlstm-ranks-XXXXXX").string();
    require(::mkdtemp(name.data()) != nullptr, name, ": cannot be made");
    return name;
  }
  static io::token_file write(const std::filesystem::path& path, index vocabulary) {
    std::vector<std::int32_t> ids;
    rng random(5);
    for (index i = 0; i < 400; ++i)
      ids.push_back(static_cast<std::int32_t>(random.below(static_cast<std::uint64_t>(vocabulary))));
    std::vector<std::int64_t> starts{0, 7, 13};
    for (std::int64_t i = 18; i < 28; ++i) starts.push_back(i);
    for (std::int64_t i = 30; i < 90; i += 4) starts.push_back(i);
    for (std::int64_t i = 91; i < 130; ++i) starts.push_back(i);
    io::write_token_file(path, ids, starts, vocabulary);
    return io::token_file(path);
  }
  std::filesystem::path folder_;
  io::token_file file_;
};

template <class Trainer, class Hook>
trained train_steps(Trainer& run, index steps, const Hook& hook) {
  trained out;
  hook(run, true);
  const auto begin = on_host(
      run.device(), static_cast<const typename Trainer::student_type::scalar*>(run.student().weights().data()),
      run.student().weights().size());
  for (index i = 0; i < steps; ++i) {
    const auto m = run.step();
    out.tokens.push_back(m.tokens);
    out.losses.insert(out.losses.end(), {m.total, m.grad_norm});
    for (const auto& t : m.terms()) out.losses.push_back(t.value);
  }
  hook(run, false);
  const auto end = on_host(
      run.device(), static_cast<const typename Trainer::student_type::scalar*>(run.student().weights().data()),
      run.student().weights().size());
  require(begin != end, "nothing was learnt");
  out.weights.assign(end.begin(), end.end());
  out.moments = run.first_moment().size();
  return out;
}

/// Six windows a batch, two batches a step: a student of two blocks, a golden teacher, an objective of three terms.
template <class D>
class ranks_distil {
  using T = typename D::scalar;

 public:
  ranks_distil(D& d, const std::string& golden, loss::alignment form)
      : device_(d),
        teacher_(load_llama<T>(d, golden + "/teacher/llama_rope_parameters")),
        text_(teacher_.vocabulary()),
        form_(form) {
    options.batch = 6, options.length = 9, options.accumulate = 2, options.total_steps = 8;
    options.lr = {1e-2}, options.clip = 0.5, options.optimiser.weight_decay = 0.1, options.seed = 4;
  }
  using trainer_type = trainer<xlstm<T, D>, loss::distillation, comm::any>;
  training_options options;
  std::function<void(trainer_type&, bool begins)> on_trainer;  ///< before the first step, and after the last

  trained operator()(comm::any ranks, index steps = 4) {
    auto c = xlstm_architecture("default", teacher_.vocabulary(), teacher_.width(), teacher_.config().layers,
                                teacher_.config().heads, teacher_.config().tied);
    c.blocks = 2, c.slstm_at = {0};
    xlstm<T, D> student(device_, c, teacher_.embedding(), teacher_.head(), teacher_.owner());
    // Rank 0's weights are those that count.
    student.initialise(device_, static_cast<std::uint64_t>(3 + ranks.rank()));
    const token_windows cut(text_.file(), options.length);
    live_teacher<llama<T, D>> live(teacher_);
    loss::distillation objective;
    objective.alpha = schedule::linear{0.6, 0.3}, objective.beta = 0.3;
    objective.temperature = 1.7, objective.form = form_;
    trainer_type run(device_, student, cut, live, objective, options, ranks);
    return train_steps(run, steps, [&](trainer_type& t, bool begins) {
      if (on_trainer) on_trainer(t, begins);
    });
  }

 private:
  D& device_;
  llama<T, D> teacher_;
  uneven_text text_;
  loss::alignment form_;
};

/// Stage 1 of a linearisation: the mixers of the golden student.
template <class D>
trained ranks_align(D& device, const std::string& golden, comm::any ranks, training_options options) {
  using T = typename D::scalar;
  const auto teacher = load_llama<T>(device, golden + "/linearise/teacher");
  auto student = load_linearised<T>(device, golden + "/linearise/student");
  const uneven_text text(teacher.vocabulary());
  const token_windows cut(text.file(), options.length);
  using student_type = std::remove_cvref_t<decltype(student)>;
  using teacher_type = std::remove_cvref_t<decltype(teacher)>;
  mixer_trainer<student_type, teacher_type, comm::any> run(device, student, cut, teacher, options, ranks);
  trained out = train_steps(run, 4, [](auto&, bool) {});
  // A shift of all input gates cancels: its gradient is rounding, of which AdamW makes steps.
  for (const auto& e : student.names())
    if (e.name.ends_with("gates.bias"))
      std::fill_n(out.weights.begin() + e.offset, student.config().heads, 0.0);
  return out;
}

}  // namespace distil_xlstm::testing
