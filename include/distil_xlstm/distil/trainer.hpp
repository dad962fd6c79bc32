#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <concepts>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include <distil_xlstm/comm/single.hpp>
#include <distil_xlstm/device/frozen_memory.hpp>
#include <distil_xlstm/distil/teacher_source.hpp>
#include <distil_xlstm/distil/trainer_base.hpp>
#include <distil_xlstm/loss/alignment.hpp>
#include <distil_xlstm/loss/distillation.hpp>
#include <distil_xlstm/loss/head.hpp>
#include <distil_xlstm/loss/step_term.hpp>
#include <distil_xlstm/model/model.hpp>

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

/// What a step sums beside `step_sums`: each term's mean over the step, and the sums of the last micro-batch.
template <class Logits, class Hidden>
struct objective_sums {
  static constexpr index terms = 0, logits = Logits::terms + Hidden::terms,
                         hidden = logits + loss::totals_size<Logits::terms>,
                         count = hidden + loss::totals_size<Hidden::terms>;
};

/// One task: the step's sums += a micro-batch's.
template <class Logits, class Hidden>
struct add_micro_batch {
  const step_inputs<Logits, Hidden>* in;
  double* sums;
  DISTIL_XLSTM_HD void operator()(index) const {
    using at = objective_sums<Logits, Hidden>;
    double* own = sums + step_sums::own;
    const double *l = own + at::logits, *h = own + at::hidden;
    for (index i = 0; i < Logits::terms; ++i) own[i] += in->per_token * l[i];
    for (index i = 0; i < Hidden::terms; ++i) own[Logits::terms + i] += h[i];
    sums[step_sums::value] += in->per_token * l[Logits::terms] + h[Hidden::terms];
  }
};

/// What is done behind each layer of the backward: the gradient of its output takes what the objective adds to it
/// (nothing where layers are not compared), and several ranks sum the gradients that are whole.
/// No part of `trainer`, so that a stack's backward is compiled once for all objectives.
///
/// `whole(trainer, i)` is called where the gradients of all weights behind layer i are there.
template <class T, class D>
struct after_layer {
  D& device;
  std::span<const matrix_view<T>> taps;
  void* trainer;
  void (*whole)(void* trainer, index layer);
  void operator()(index i, matrix_view<T> dy) const {
    if (!taps.empty()) transform(device, dy, math::plus{}, dy, taps[static_cast<std::size_t>(i)]);
    whole(trainer, i);
  }
};

template <class Student>
void take_source(teacher_source<typename Student::scalar, typename Student::device_type>&);
/// What is given to a `trainer`, by its place.
template <class DeviceReference, class StudentReference, class Text, class Teacher, class Objective>
struct trainer_arguments {
  using D = std::remove_reference_t<DeviceReference>;
  using Student = std::remove_reference_t<StudentReference>;
  static constexpr bool in_order = requires { typename Student::stack_type; }
  &&Device<D>&& std::convertible_to<Text&, const token_windows&>&& ObjectiveExpression<Objective>;
  static constexpr bool lives = !in_order || (std::is_lvalue_reference_v<DeviceReference> &&
                                              std::is_lvalue_reference_v<StudentReference>);
  static constexpr bool has_source =
      !in_order || std::same_as<Teacher, no_teacher> || requires(Teacher & source) {
    take_source<Student>(source);
  };
  static constexpr bool fit = in_order && lives && has_source;
};
/// An error of the compiler where they do not fit.
template <class... Arguments>
struct fitting_arguments {
  static_assert(trainer_arguments<Arguments...>::in_order,
                "distil_xlstm::trainer takes, in this order, a device, a student, token_windows, a teacher, an "
                "objective of terms, and options; write trainer(device, student, windows, live, objective, "
                "{.batch = 8, .length = 32, .total_steps = 1000})");
  static_assert(
      trainer_arguments<Arguments...>::lives,
      "distil_xlstm::trainer refers to the device and the student, which must live as long: give them "
      "names first");
  static_assert(
      trainer_arguments<Arguments...>::has_source,
      "distil_xlstm::trainer(device, student, windows, teacher, objective, options): the teacher is a "
      "live_teacher, a cached_teacher, a teacher_source of one's own, of the student's device and type "
      "of numbers, or no_teacher{}; write live_teacher live(teacher); trainer(device, student, "
      "windows, live, ...)");
  static constexpr bool value = true;
};

}  // namespace detail

/// Trains a student: the teacher's signals and the text are given, and the frozen embedding and head where the
/// student does not train its own. Everything a step needs is allocated by the first. One trainer is one caller's.
///
/// `Student` is a trainable `model` or derived from one; `Objective` an expression of terms and schedules, such as
/// `alpha * kl(T) + (1 - alpha) * cross_entropy() + 0.1 * frobenius(layers::average)`. What of the teacher it
/// compares with is asked of the teacher's source. The ranks of a communicator that is given train together, as one
/// process would with all of each batch: the same losses and weights to rounding, whatever the terms average over.
///
/// Its steps and what they count and measure are those of `trainer_base`.
template <class Student, ObjectiveExpression Objective, Communicator C = comm::single>
class trainer : public trainer_base<trainer<Student, Objective, C>, Student, C> {
  using base = trainer_base<trainer, Student, C>;
  friend base;
  using T = typename Student::scalar;
  using D = typename Student::device_type;
  using Stack = typename Student::stack_type;
  using step_objective = decltype(std::declval<const Objective&>().template at<T>(schedule::clock{}));
  using logits_term = decltype(step_objective::logits);
  using hidden_term = decltype(step_objective::hidden);
  using step_inputs = detail::step_inputs<logits_term, hidden_term>;
  using at = detail::objective_sums<logits_term, hidden_term>;
  static constexpr bool asks_teacher = step_objective::asks_teacher, sums_gradients = true;
  /// The stack shows its layers' outputs.
  static constexpr bool tapped = requires(const Stack& s, const tape_t<Stack, T>& k, matrix_view<T> y) {
    s.output(k, y, index{0});
  };
  using base::batch_, base::book, base::device_, base::options_, base::student_, base::times_;

 public:
  /// Refers to `student`, `text`, `teacher` and `ranks`, which must live as long. Throws `error` when they do not fit.
  trainer(D& device, Student& student, const token_windows& text, teacher_source<T, D>& teacher,
          Objective objective, training_options options, C& ranks = comm::alone)
      : trainer(device, student, text, &teacher, objective, std::move(options), ranks) {}
  /// For an objective of the text alone.
  trainer(D& device, Student& student, const token_windows& text, no_teacher, Objective objective,
          training_options options, C& ranks = comm::alone)
      : trainer(device, student, text, nullptr, objective, std::move(options), ranks) {
    static_assert(!asks_teacher,
                  "distil_xlstm::trainer(device, student, text, no_teacher, objective): the objective compares "
                  "with a teacher; give a live_teacher or a cached_teacher");
  }
  /// @{
  /// An error of the compiler: temporary windows, or a temporary source, would not live as long.
  template <class Teacher>
  trainer(D& device, Student& student, const token_windows&& text, Teacher&& teacher, Objective objective,
          training_options options, C& ranks = comm::alone)
      : trainer(device, student, text, teacher, objective, std::move(options), ranks) {
    static_assert(
        sizeof(Teacher) == 0,
        "distil_xlstm::trainer refers to the windows, which must live as long: give them a name first");
  }
  template <std::derived_from<teacher_source<T, D>> Source>
  trainer(D& device, Student& student, const token_windows& text, Source&& teacher, Objective objective,
          training_options options, C& ranks = comm::alone)
      : trainer(device, student, text, teacher, objective, std::move(options), ranks) {
    static_assert(
        sizeof(Source) == 0,
        "distil_xlstm::trainer refers to the teacher's source, which must live as long: give it a name "
        "first, live_teacher live(teacher);");
  }
  /// @}

  /// As it was given.
  const Objective& objective() const { return objective_; }

 private:
  trainer(D& device, Student& student, const token_windows& text, teacher_source<T, D>* teacher,
          Objective objective, training_options options, C& ranks)
      : base(device, student, text, std::move(options), at::count, ranks),
        teacher_(teacher),
        objective_(objective),
        state_(student.make_state(device, this->windows())),
        tape_(student.make_tape(device, this->windows(), options_.length, false)),
        inputs_(device, 1) {
    const index rows = this->rows(), width = student.width();
    if constexpr (asks_teacher) {
      const loss::layers compared = objective.template at<T>(this->clock()).compares;
      index blocks = 0;  // of the student, that can be compared with the teacher's
      if constexpr (tapped) blocks = student.stack().count();
      signal_memory_ = {device, rows, width, target_layers(compared, teacher->layers(), blocks)};
      signals_ = signal_memory_.first(rows);
      const index known = teacher->vocabulary();
      constexpr bool compares_logits = logits_term::asks_teacher;
      require(known == 0 || (compares_logits ? known == student.vocabulary() : known >= text.vocab_size()),
              "trainer: the teacher has a vocabulary of ", known, ", the student of ", student.vocabulary());
      teacher->check(signals_);
      if constexpr (compares_logits && !Student::trains_embedding_and_head)
        require(detail::alike(detail::middle_row(device, logit_head(student.head()).matrix),
                              detail::middle_row(device, teacher->head())),
                "trainer: the student's head is not this teacher's; make the student between its embedding and "
                "head");
      if (compared != loss::layers::average) tap_gradients_.resize(signals_.targets.size());
    }
    if constexpr (tapped) layer_starts_ = detail::layer_starts(student.names(), student.stack().count());
    const auto bind = [&](layout<T> l) {
      for (matrix_view<T>* m : {&x_, &hidden_, &dhidden_, &dx_}) *m = l.matrix("", rows, width);
      for (matrix_view<T>& m : tap_gradients_) m = l.matrix("", rows, width);
      return l.size();
    };
    memory_ = buffer<T, D>(device, bind(layout<T>()));
    bind(layout<T>(memory_.data()));
  }

  void begin(const step_metrics& m, const schedule::clock& clock, double per_token) {
    const step_objective objective = objective_.template at<T>(clock);
    host_inputs_ = step_inputs{{objective.logits, static_cast<T>(per_token)},
                               {objective.hidden, T(1)},
                               per_token,
                               m.lr,
                               this->updates_};
    const std::array<loss::term_facts, 2> facts{objective.logits.facts(), objective.hidden.facts()};
    if (std::exchange(term_facts_, facts) != facts) this->forget_records();
  }
  void upload_inputs() {
    device_->upload(inputs_.data(), &*host_inputs_, static_cast<index>(sizeof(step_inputs)));
  }
  /// What signals hold before the teacher is asked for the first time: a NaN that no arithmetic gives.
  static T unwritten() {
    if constexpr (sizeof(T) == 4)
      return std::bit_cast<T>(std::uint32_t{0x7fdead01});
    else
      return std::bit_cast<T>(std::uint64_t{0x7ffdead000000001});
  }
  bool records_teacher() const { return asks_teacher && teacher_->repeats(); }
  void prepare_micro_batch(index micro_batch) {
    if (asks_teacher && !records_teacher()) ask_teacher(this->windows_of(micro_batch));
  }
  void run_micro_batch() {
    if (records_teacher()) ask_teacher({});
    forward();
    evaluate_objective();
    backward();
  }
  void ask_teacher(const std::vector<index>& windows) {
    const bool first = !std::exchange(asked_, true);
    if (first) {
      fill(*device_, signals_.last_hidden, unwritten());
      for (const auto& t : signals_.targets) fill(*device_, t.mean, unwritten());
    }
    teacher_->fill(*device_, windows, batch_, signals_);
    if (!first) return book(times_.teacher);
    const auto written = [this](const char* what, matrix_view<T> m) {
      std::vector<T> all(static_cast<std::size_t>(m.size()));
      device_->download(all.data(), m.data, m.size() * static_cast<index>(sizeof(T)));
      const auto bad = std::find_if(all.begin(), all.end(), [mark = unwritten()](const T& x) {
        return std::memcmp(&x, &mark, sizeof x) == 0;
      });
      require(bad == all.end(), "trainer: the teacher's source left row ", (bad - all.begin()) / m.cols, " of ",
              what, " unwritten");
    };
    if (term_facts_[0].uses_teacher) written("the final hidden states", signals_.last_hidden);
    for (const auto& t : signals_.targets) written("a target", t.mean);
    book(times_.teacher);
  }
  void forward() {
    state_.reset();
    student_->forward(*device_, batch_.view(), batch_.ids(), state_, tape_, x_, hidden_);
    book(times_.forward);
  }
  /// Sums to the step's, gradients to dhidden_ and tap_gradients_, and the head's where it is trained.
  void evaluate_objective() {
    D& d = *device_;
    const step_inputs* in = inputs_.data();
    double* own = this->sums(detail::step_sums::own);
    loss::head(d, loss::step_term<D>(host_inputs_->logits, &in->logits), matrix_view<const T>(hidden_),
               matrix_view<const T>(signals_.last_hidden),
               student_->heads(this->gradients(), asks_teacher ? teacher_->head() : frozen_matrix{}),
               batch_.targets(), batch_.scored(), T(1), dhidden_, own + at::logits);
    pairs_.clear();
    if constexpr (tapped)
      for (std::size_t i = 0; i < tap_gradients_.size(); ++i) {
        fill(d, tap_gradients_[i]);
        pairs_.push_back({student_->stack().output(tape_.views(), hidden_, static_cast<index>(i)),
                          signals_.targets[i].mean, tap_gradients_[i]});
      }
    if (tap_gradients_.empty() && !signals_.targets.empty())
      pairs_.push_back({hidden_, signals_.targets[0].mean, dhidden_});
    loss::align(d, loss::step_term<D>(host_inputs_->hidden, &in->hidden), batch_.view(),
                std::span<const loss::hidden_pair<T>>(pairs_), nullptr, T(1), own + at::hidden,
                options_.accumulate, this->ranks());
    parallel_for(d, 1, detail::add_micro_batch<logits_term, hidden_term>{in, this->sums(0)});
    book(times_.objective);
  }
  /// Those of the weights behind layer i.
  static void gradients_whole(void* self, index i) {
    auto& t = *static_cast<trainer*>(self);
    if (t.sums_beside() && !t.layer_starts_.empty())
      t.sum_gradients_from(t.layer_starts_[static_cast<std::size_t>(i + 1)]);
  }
  void backward() {
    const auto through_model = [&](auto&&... taps) {
      student_->backward(*device_, batch_.view(), batch_.ids(), this->gradients(), tape_, x_, dhidden_, dx_,
                         taps...);
    };
    if constexpr (tapped)
      through_model(detail::after_layer<T, D>{*device_, tap_gradients_, this, &gradients_whole});
    else
      through_model();
    if (this->sums_beside()) this->sum_gradients_from(0);
    book(times_.backward);
  }
  void read(step_metrics& m, const double* own) const {
    index i = at::terms;
    const auto add = [&](const auto& names) {
      for (const auto name : names) m.add(name, own[i++]);
    };
    add(host_inputs_->logits.term.names()), add(host_inputs_->hidden.term.names());
  }

  std::vector<index> layer_starts_;  ///< in the gradients; empty: not known
  bool asked_ = false;
  teacher_source<T, D>* teacher_;  ///< null: the objective asks nothing of one
  Objective objective_;
  typename Student::state_type state_;
  typename Student::tape_type tape_;
  std::optional<step_inputs> host_inputs_;
  buffer<step_inputs, D> inputs_;
  std::array<loss::term_facts, 2> term_facts_{};  ///< what of the objective the recorded passes hold
  buffer<T, D> memory_;
  matrix_view<T> x_, hidden_, dhidden_, dx_;
  std::vector<matrix_view<T>> tap_gradients_;  ///< one a block, where blocks are compared
  signal_memory<T, D> signal_memory_;
  teacher_signals<T> signals_;
  std::vector<loss::hidden_pair<T>> pairs_;
};
/// An error of the compiler: other arguments, or in another order.
template <class D, class Student, class Text, class Teacher, class Objective, class... Ranks>
requires(!detail::trainer_arguments<D, Student, std::remove_cvref_t<Text>, std::remove_cvref_t<Teacher>,
                                    Objective>::fit)
    trainer(D&&, Student&&, Text&&, Teacher&&, Objective, training_options, Ranks&...)
->trainer<std::enable_if_t<detail::fitting_arguments<D, Student, std::remove_cvref_t<Text>,
                                                     std::remove_cvref_t<Teacher>, Objective>::value,
                           std::remove_reference_t<Student>>,
          Objective>;

}  // namespace distil_xlstm
