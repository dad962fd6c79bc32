#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <distil_xlstm/core/layout.hpp>
#include <distil_xlstm/device/captured_graph.hpp>
#include <distil_xlstm/distil/step_metrics.hpp>
#include <distil_xlstm/distil/teacher_source.hpp>
#include <distil_xlstm/distil/training_options.hpp>
#include <distil_xlstm/loss/alignment.hpp>
#include <distil_xlstm/loss/distillation.hpp>
#include <distil_xlstm/loss/head.hpp>
#include <distil_xlstm/loss/step_term.hpp>
#include <distil_xlstm/model/model.hpp>
#include <distil_xlstm/optim/adamw.hpp>
#include <distil_xlstm/optim/gradient_norm.hpp>

namespace distil_xlstm {

namespace detail {

/// What a step reads that changes from one to the next, in the device's memory: all else that is asked of the
/// device stays, so that it can be recorded.
template <class Logits, class Hidden>
struct step_inputs {
  loss::term_coefficients<Logits> logits;
  loss::term_coefficients<Hidden> hidden;
  double per_token;  ///< what a token's terms count in the step
  double lr;
  std::int64_t updates;
};

/// Where a step leaves its sums: those of its last part, those of the whole, the squared norm and where it is
/// not finite.
template <class Logits, class Hidden>
struct step_totals {
  static constexpr index logits = 0, hidden = logits + loss::totals_size<Logits::terms>,
                         terms = hidden + loss::totals_size<Hidden::terms>,
                         value = terms + Logits::terms + Hidden::terms, squares = value + 1,
                         usable = squares + 2, count = usable + 1;
};

/// One task: the squared norm as the optimiser is to see it, which is not finite where the loss is not.
template <class Logits, class Hidden>
struct judge_step {
  double* totals;
  DISTIL_XLSTM_HD void operator()(index) const {
    using at = step_totals<Logits, Hidden>;
    totals[at::usable] = totals[at::squares] + (totals[at::value] - totals[at::value]);
  }
};

/// One task: the step's sums += a part's.
template <class Logits, class Hidden>
struct add_part {
  const step_inputs<Logits, Hidden>* in;
  double* totals;
  DISTIL_XLSTM_HD void operator()(index) const {
    using at = step_totals<Logits, Hidden>;
    const double *l = totals + at::logits, *h = totals + at::hidden;
    double* sums = totals + at::terms;
    for (index i = 0; i < Logits::terms; ++i) sums[i] += in->per_token * l[i];
    for (index i = 0; i < Hidden::terms; ++i) sums[Logits::terms + i] += h[i];
    totals[at::value] += in->per_token * l[Logits::terms] + h[Hidden::terms];
  }
};

/// Adds to the gradient of layer i's output what the objective adds to it: nothing where layers are not compared.
/// No part of `trainer`, so that a stack's backward is compiled once for all objectives.
template <class T, class D>
struct add_tap_gradient {
  D& device;
  std::span<const matrix_view<T>> taps;
  void operator()(index i, matrix_view<T> dy) const {
    if (!taps.empty()) transform(device, dy, math::plus{}, dy, taps[static_cast<std::size_t>(i)]);
  }
};

}  // namespace detail

/// Trains a student's stack: the frozen ends, the teacher's signals and the text are given. Everything a step
/// needs is allocated by the first. One trainer is one caller's.
///
/// `Student` is a `student` or derived from one; `Objective` an expression of terms and schedules, such as
/// `alpha * kl(T) + (1 - alpha) * cross_entropy() + 0.1 * frobenius(layers::average)`. What of the teacher it
/// compares with is asked of the teacher's source.
template <class Student, ObjectiveExpression Objective>
class trainer {
  using T = typename Student::scalar;
  using D = typename Student::device_type;
  using Stack = typename Student::stack_type;
  using step_objective = decltype(std::declval<const Objective&>().template at<T>(schedule::clock{}));
  using logits_term = decltype(step_objective::logits);
  using hidden_term = decltype(step_objective::hidden);
  using step_inputs = detail::step_inputs<logits_term, hidden_term>;
  using totals = detail::step_totals<logits_term, hidden_term>;
  static constexpr bool asks_teacher = step_objective::asks_teacher;
  /// The stack shows its layers' outputs.
  static constexpr bool tapped = requires(const Stack& s, const tape_t<Stack, T>& k) { s.output(k, index{0}); };

 public:
  using student_type = Student;
  using weights_type = weight_memory<Stack, T, D>;

  /// Refers to `student`, `text` and `teacher`, which must live as long. Throws `error` when they do not fit.
  trainer(D& device, Student& student, const token_windows& text, teacher_source<T, D>& teacher,
          Objective objective, training_options options)
      : trainer(device, student, text, &teacher, objective, std::move(options)) {}
  /// For an objective of the text alone.
  trainer(D& device, Student& student, const token_windows& text, no_teacher, Objective objective,
          training_options options)
      : trainer(device, student, text, nullptr, objective, std::move(options)) {
    static_assert(!asks_teacher,
                  "distil_xlstm::trainer(device, student, text, no_teacher, objective): the objective compares "
                  "with a teacher; give a live_teacher or a cached_teacher");
  }

  /// One optimiser step; one with nothing to score is passed over, and counted. Throws `numeric_error` when the run
  /// has diverged: the weights are not finite, or ten steps in a row had a loss or gradients that are not. It says
  /// since which step, what was not finite first, and in which tensor.
  step_metrics step() {
    step_metrics m = begin_step(step_);
    if (m.tokens > 0) {
      forward_backward();
      update_weights();
    }
    end_step(m);
    return m;
  }
  /// Losses and gradients of the coming step, or of the next that has something to score, and no update: to time a
  /// step, or to look at gradients.
  step_metrics measure() {
    step_metrics m = begin_step(step_);
    for (index s = step_; m.tokens == 0; m = begin_step(s))
      require(++s < step_ + 2 * order_.steps_per_epoch(), "trainer: no step has a token to score");
    forward_backward();
    read_terms(m);
    return m;
  }
  /// Throws `numeric_error` where training would not go on well: the last step was not finite, the weights are not,
  /// or the loss or the gradients that they give.
  void check() {
    std::string trouble = unusable_ > 0 ? trouble_ : weights_trouble(step_);
    const std::string at = "diverged at step " + std::to_string(step_) + ": ";
    if (unusable_ > 0 && trouble.empty()) trouble = at + "neither its loss nor those before it were finite";
    if (trouble.empty() && updates_ > 0) {
      const bool loss = std::isfinite(measure().total);
      if (!loss || !optim::global_norm(*device_, gradients_.data(), gradients_.size()).finite())
        trouble =
            at + "with the weights that it left the " + (loss ? "gradient norm" : "loss") + " is not finite";
    }
    if (!trouble.empty()) throw numeric_error(trouble);
  }

  index step_count() const { return step_; }
  index steps_per_epoch() const { return order_.steps_per_epoch(); }
  schedule::clock clock() const {
    const schedule::clock c{step_, options_.total_steps, order_.steps_per_epoch()};
    return options_.restart_epochs > 0 ? c.restarted(options_.restart_epochs) : c;
  }
  const training_options& options() const { return options_; }
  void total_steps(index n) { options_.total_steps = n; }
  void warmup(index steps) { options_.lr.warmup = steps; }

  /// From now on the parts of steps are timed by `now()`, a clock of the caller's that gives seconds; null: they are
  /// not.
  void timer(double (*now)()) { now_ = now; }
  const step_times& times() const { return times_; }
  /// Whether the coming step is launched as the device recorded it. Where a device can record, the third step
  /// is the first such; none is while a `timer` is set.
  bool recorded() const { return !now_ && first_forward_backward_.recorded() && update_.recorded(); }

  // What a checkpoint holds: arenas of `size()` numbers, and counters.
  struct counters {
    index step = 0;
    std::int64_t updates = 0;
    index skipped = 0, unusable = 0;  ///< steps that were not finite: all, and the last ones in a row
    index empty = 0;                  ///< steps with nothing to score
  };
  counters count() const { return {step_, updates_, skipped_, unusable_, empty_}; }
  void count(const counters& c) {
    step_ = c.step, updates_ = c.updates, skipped_ = c.skipped, unusable_ = c.unusable, empty_ = c.empty;
    trouble_ = {};
  }
  Student& student() const { return *student_; }
  const Objective& objective() const { return objective_; }
  const weights_type& gradients() const { return gradients_; }
  const weights_type& first_moment() const { return first_moment_; }
  const weights_type& second_moment() const { return second_moment_; }
  D& device() const { return *device_; }

 private:
  trainer(D& device, Student& student, const token_windows& text, teacher_source<T, D>* teacher,
          Objective objective, training_options options)
      : device_(&device),
        student_(&student),
        text_(&text),
        teacher_(teacher),
        objective_(objective),
        options_(std::move(options)),
        order_(text.count(), options_.batch * options_.accumulate, options_.order, options_.seed),
        gradients_(device, student.stack()),
        first_moment_(device, student.stack()),
        second_moment_(device, student.stack()),
        state_(student.make_state(device, options_.batch)),
        tape_(student.make_tape(device, options_.batch, options_.length, false)),
        inputs_(device, 1),
        totals_(device, totals::count),
        scalars_(device, 1) {
    require(text.length() == options_.length, "trainer: windows of ", text.length(),
            " tokens, the options say ", options_.length);
    require(text.vocab_size() <= student.vocabulary(), "the text was made for a vocabulary of ",
            text.vocab_size(), ", the student has ", student.vocabulary());
    const bool all = options_.order == window_order::shuffled;
    const index read = all ? text.count() : order_.steps_per_epoch() * options_.batch * options_.accumulate;
    require(text.scores(read), "the text has nothing to score: in its ", read, " windows of ", options_.length,
            " tokens every document is one token long");
    for (const auto& e : student.names()) decay_.push_back({e.offset, e.size, e.decay == weight_decay::yes});
    const index rows = options_.batch * options_.length, width = student.width();
    if constexpr (asks_teacher) {
      const loss::layers compared = objective.template at<T>(clock()).compares;
      index blocks = 0;  // of the student, that can be compared with the teacher's
      if constexpr (tapped) blocks = student.stack().count();
      signal_memory_ = {device, rows, width, target_layers(compared, teacher->layers(), blocks)};
      signals_ = signal_memory_.first(rows);
      teacher->check(signals_);
      if (compared != loss::layers::average) tap_gradients_.resize(signals_.targets.size());
    }
    const auto bind = [&](layout<T> l) {
      for (matrix_view<T>* m : {&x_, &hidden_, &dhidden_, &dx_}) *m = l.matrix("", rows, width);
      for (matrix_view<T>& m : tap_gradients_) m = l.matrix("", rows, width);
      return l.size();
    };
    memory_ = buffer<T, D>(device, bind(layout<T>()));
    bind(layout<T>(memory_.data()));
  }

  /// What is known before the device has worked: the tokens of a step, and what the schedules say now.
  step_metrics begin_step(index step) {
    reading_ = step;
    const schedule::clock clock = this->clock();
    const step_objective objective = objective_.template at<T>(clock);
    step_metrics m;
    m.epoch = step_ / order_.steps_per_epoch();
    m.lr = options_.lr.at(clock);
    if (now_) last_ = now_();
    tokens_.resize(static_cast<std::size_t>(options_.accumulate));
    for (index part = 0; part < options_.accumulate; ++part) {
      auto& tokens = tokens_[static_cast<std::size_t>(part)];
      text_->read(windows_of(part), tokens);
      m.tokens += tokens.scored_tokens;
    }
    m.empty = m.tokens == 0;
    const double per_token = m.empty ? 0.0 : 1.0 / static_cast<double>(m.tokens);
    host_inputs_ = step_inputs{
        {objective.logits, static_cast<T>(per_token)}, {objective.hidden, T(1)}, per_token, m.lr, updates_};
    const std::array<loss::term_facts, 2> facts{objective.logits.facts(), objective.hidden.facts()};
    if (std::exchange(term_facts_, facts) != facts)
      first_forward_backward_.forget(), forward_backward_.forget();
    return m;
  }

  /// Asks the device for the losses and gradients of a step, part by part.
  void forward_backward() {
    const bool record_teacher = asks_teacher && teacher_->repeats();
    device_->upload(inputs_.data(), &*host_inputs_, static_cast<index>(sizeof(step_inputs)));
    for (index part = 0; part < options_.accumulate; ++part) {
      batch_.put(*device_, tokens_[static_cast<std::size_t>(part)]);
      if (asks_teacher && !record_teacher) ask_teacher(windows_of(part));
      run(part == 0 ? first_forward_backward_ : forward_backward_, [&, this] {
        if (part == 0) {
          fill(*device_, matrix_view<T>(gradients_.data(), 1, gradients_.size()));
          fill(*device_, matrix_view<double>(totals_.data(), 1, totals::count));
        }
        if (record_teacher) ask_teacher(which_);
        forward();
        evaluate_objective();
        backward();
      });
    }
  }
  void ask_teacher(const std::vector<index>& windows) {
    teacher_->fill(*device_, windows, batch_, signals_);
    book(times_.teacher);
  }
  void forward() {
    state_.reset();
    student_->forward(*device_, batch_.view(), batch_.ids(), state_, tape_, x_, hidden_);
    book(times_.forward);
  }
  /// Sums to the step's, gradients to dhidden_ and tap_gradients_.
  void evaluate_objective() {
    D& d = *device_;
    const step_inputs* in = inputs_.data();
    loss::head(d, loss::step_term<D>(host_inputs_->logits, &in->logits), matrix_view<const T>(hidden_),
               matrix_view<const T>(signals_.last_hidden), student_->head(), batch_.targets(), batch_.scored(),
               T(1), dhidden_, at(totals::logits));
    pairs_.clear();
    if constexpr (tapped)
      for (std::size_t i = 0; i < tap_gradients_.size(); ++i) {
        fill(d, tap_gradients_[i]);
        pairs_.push_back({student_->stack().output(tape_.views(), static_cast<index>(i)),
                          signals_.targets[i].mean, tap_gradients_[i]});
      }
    if (tap_gradients_.empty() && !signals_.targets.empty())
      pairs_.push_back({hidden_, signals_.targets[0].mean, dhidden_});
    loss::align(d, loss::step_term<D>(host_inputs_->hidden, &in->hidden), batch_.view(),
                std::span<const loss::hidden_pair<T>>(pairs_), nullptr, T(1), at(totals::hidden),
                options_.accumulate);
    parallel_for(d, 1, detail::add_part<logits_term, hidden_term>{in, totals_.data()});
    book(times_.objective);
  }
  void backward() {
    const auto through_stack = [&](auto&&... taps) {
      student_->stack().backward(*device_, batch_.view(), student_->weights().views(), gradients_.views(),
                                 tape_.views(), x_, dhidden_, dx_, taps...);
    };
    if constexpr (tapped)
      through_stack(detail::add_tap_gradient<T, D>{*device_, tap_gradients_});
    else
      through_stack();
    book(times_.backward);
  }

  /// Clips the gradients and takes AdamW's step, unless one of them, or the loss, is not finite.
  void update_weights() {
    run(update_, [this] {
      D& d = *device_;
      const index n = gradients_.size();
      optim::squared_norm(d, gradients_.data(), n, at(totals::squares));
      book(times_.backward);
      parallel_for(d, 1, detail::judge_step<logits_term, hidden_term>{totals_.data()});
      step_inputs* in = inputs_.data();
      optim::prepare_step(d, options_.optimiser, &in->lr, options_.clip, at(totals::usable), &in->updates,
                          scalars_.data());
      optim::step(d, options_.optimiser, scalars_.data(), student_->weights().data(), gradients_.data(),
                  first_moment_.data(), second_moment_.data(), n, decay_);
      book(times_.optimiser);
    });
  }

  /// Waits for what was asked; counts the step.
  void end_step(step_metrics& m) {
    m.step = ++step_;
    if (m.empty) {
      ++empty_;
      return;
    }
    const double* sums = read_terms(m);
    m.grad_norm = std::sqrt(sums[totals::squares]);
    if (std::isfinite(sums[totals::usable])) {
      unusable_ = 0;
      ++updates_;
      return;
    }
    m.skipped = true;
    ++skipped_;
    if (++unusable_ == 1 || trouble_.empty()) {
      trouble_ = weights_trouble(step_ - 1);
      if (trouble_.empty())
        trouble_ = "diverged at step " + std::to_string(step_) + ": the " +
                   (std::isfinite(m.total) ? "gradient norm" : "loss") + " is not finite";
    }
    if (unusable_ >= 10)
      throw numeric_error(trouble_ + "; ten steps in a row were not, at step " + std::to_string(step_) +
                          " the gradients" +
                          tensor_at(", first in ", static_cast<index>(sums[totals::squares + 1])));
  }
  /// Nothing where the weights, which `step` has left, are finite.
  std::string weights_trouble(index step) const {
    const index n = student_->weights().size();
    const index first = optim::global_norm(*device_, student_->weights().data(), n).first_non_finite;
    if (first < 0 || first >= n) return {};
    return "diverged at step " + std::to_string(step) + ": the weights that it left are not finite" +
           tensor_at(", first in ", first);
  }
  /// Waits for what was asked, and gives it: the terms to `m`, all sums to the caller.
  const double* read_terms(step_metrics& m) {
    const double* sums = fetched_.get(*device_, totals_.data(), totals::count);
    index i = totals::terms;
    const auto add = [&](const auto& names) {
      for (const auto name : names) m.add(name, sums[i++]);
    };
    add(host_inputs_->logits.term.names()), add(host_inputs_->hidden.term.names());
    m.total = sums[totals::value];
    return sums;
  }

  /// The windows that a part of the step reads.
  const std::vector<index>& windows_of(index part) {
    order_.rows_of(reading_, part * options_.batch, options_.batch, which_);
    return which_;
  }
  double* at(index total) const { return totals_.data() + total; }
  /// A step that is timed is done part by part.
  template <class F>
  void run(captured_graph<D>& record, F&& work) {
    if (now_)
      work();
    else
      record(*device_, memory_.data(), work);
  }
  /// The time since the last call is added to `part`.
  void book(double& part) {
    if (!now_) return;
    const double t = now_();
    part += t - last_;
    last_ = t;
  }
  /// `before` and the name of the tensor that number i of the weights belongs to; nothing where there is none.
  std::string tensor_at(const char* before, index i) const {
    for (const auto& e : student_->names())
      if (i >= e.offset && i < e.offset + e.size) return before + e.name;
    return {};
  }

  D* device_;
  Student* student_;
  const token_windows* text_;
  teacher_source<T, D>* teacher_;  ///< null: the objective asks nothing of one
  Objective objective_;
  training_options options_;
  window_sampler order_;
  weights_type gradients_, first_moment_, second_moment_;
  typename Student::state_type state_;
  typename Student::tape_type tape_;
  std::vector<optim::decay_range> decay_;
  std::optional<step_inputs> host_inputs_;
  buffer<step_inputs, D> inputs_;
  buffer<double, D> totals_;
  host_copy<double, D> fetched_;
  buffer<optim::step_scalars<T>, D> scalars_;
  captured_graph<D> first_forward_backward_, forward_backward_, update_;
  std::array<loss::term_facts, 2> term_facts_{};  ///< what of the objective the recorded passes hold
  buffer<T, D> memory_;
  matrix_view<T> x_, hidden_, dhidden_, dx_;
  std::vector<matrix_view<T>> tap_gradients_;  ///< one a block, where blocks are compared
  signal_memory<T, D> signal_memory_;
  teacher_signals<T> signals_;
  std::vector<loss::hidden_pair<T>> pairs_;
  std::vector<token_batch> tokens_;
  device_batch<D> batch_;
  std::vector<index> which_;
  index step_ = 0, skipped_ = 0, unusable_ = 0, empty_ = 0;
  index reading_ = 0;    ///< the step whose windows are read
  std::string trouble_;  ///< while steps are not finite: since which, and what of it was not first
  std::int64_t updates_ = 0;
  step_times times_;
  double (*now_)() = nullptr;
  double last_ = 0;
};

}  // namespace distil_xlstm
