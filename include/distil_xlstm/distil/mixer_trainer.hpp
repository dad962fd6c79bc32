#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <optional>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include <distil_xlstm/comm/single.hpp>
#include <distil_xlstm/device/column_sums.hpp>
#include <distil_xlstm/device/fold_into.hpp>
#include <distil_xlstm/device/scratch_layout.hpp>
#include <distil_xlstm/distil/teacher_mixers.hpp>
#include <distil_xlstm/distil/trainer_base.hpp>
#include <distil_xlstm/math/sum.hpp>
#include <distil_xlstm/model/linearised.hpp>

namespace distil_xlstm {

namespace detail {

/// |a - y| and |a| of each row. To the former's square 1e-12 |a|² is added: where the two are equal but for rounding,
/// as they are while a window holds all of a text, the gradient would be the rounding's direction.
template <class T>
struct row_distances : fold_into<math::two_sums, T> {
  matrix_view<const T> a, y;
  matrix_view<T> norms;  ///< [rows, 2]
  template <class V>
  DISTIL_XLSTM_HD void visit(math::two_sums<V>& s, index r, index c) const {
    const V want = math::load<V>(a.row(r) + c), off = math::load<V>(y.row(r) + c) - want;
    push(s, off * off, want * want);
  }
  DISTIL_XLSTM_HD void finish(index r, const math::two_sums<T>& s) const {
    using std::sqrt;
    norms.row(r)[0] = sqrt(s.first + T(1e-12) * s.second), norms.row(r)[1] = sqrt(s.second);
  }
};
/// dy <- the gradient by y of sum_r |a_r - y_r| / sum_r |a_r| / parts, stored as Operand.
template <class T, class Operand>
struct distance_gradient {
  using scalar = T;
  matrix_view<const T> a, norms, y;
  const T* totals;  ///< of the norms
  T part;           ///< 1 / parts
  matrix_view<Operand> dy;
  template <class V>
  DISTIL_XLSTM_HD void operator()(index r, index c) const {
    const T scale = norms.row(r)[0] * totals[1], factor = scale > T(0) ? part / scale : T(0);
    const V off = math::load<V>(y.row(r) + c) - math::load<V>(a.row(r) + c);
    math::store<V>(dy.row(r) + c, V(factor) * off);
  }
};
/// One task: a layer's share of the step's sums; none where `part` is 0.
template <class T>
struct add_layer_error {
  const T* totals;
  T part;
  index layer;
  double* sums;
  DISTIL_XLSTM_HD void operator()(index) const {
    if (part == T(0)) return;
    const T error = totals[1] > T(0) ? totals[0] / totals[1] * part : totals[0] - totals[0];
    sums[step_sums::value] += static_cast<double>(error);
    sums[step_sums::own + layer] += static_cast<double>(error);
  }
};

/// What a step of a `mixer_trainer` reads that changes.
struct mixer_inputs {
  double lr;
  std::int64_t updates;
};

}  // namespace detail

/// Teaches the mixers of a linearised student, all at once and each for itself: layer i's mixer reads what the
/// teacher's attention i reads, u, and learns what that gives, a,
///
///   loss = sum over layers of  mean_t |a_t - y_t| / mean_t |a_t|      y: the mixer's output, after its projection
///
/// where 1e-6 |a_t| counts as no distance. The means are over a batch, whose windows the ranks of a communicator share.
///
/// No gradient passes from layer to layer and there are no logits, so that memory is one layer's at a time. Layers that
/// keep attention learn nothing. The metrics' `alignment` is the mean over the layers that do.
///
/// `Student` is a `linearised_model`, fully trainable; `Teacher` the `llama` that it comes from, of which
/// `live_teacher` says what it makes of long windows. What it shares with `trainer` is said there.
template <class Student, class Teacher, Communicator C = comm::single>
class mixer_trainer : public trainer_base<mixer_trainer<Student, Teacher, C>, Student, C> {
  using base = trainer_base<mixer_trainer, Student, C>;
  friend base;
  using T = typename Student::scalar;
  using D = typename Student::device_type;
  using operands = matrix_view<const operand_t<D, T>>;
  static constexpr bool sums_gradients = false;
  using base::batch_, base::book, base::device_, base::options_, base::student_, base::times_;

 public:
  /// Refers to `student`, `text`, `teacher` and `ranks`, which must live as long. Throws `error` when they do not fit,
  /// or no layer has another mixer.
  mixer_trainer(D& device, Student& student, const token_windows& text, const Teacher& teacher,
                training_options options, C& ranks = comm::alone)
      : base(device, student, text, std::move(options), student.config().layers, ranks),
        teacher_(&teacher),
        errors_(static_cast<std::size_t>(student.config().layers)),
        inputs_(device, 1) {
    const auto& mixers = student.config().mixers;
    learning_ =
        std::count_if(mixers.begin(), mixers.end(), [](mixer_kind k) { return k != mixer_kind::attention; });
    require(learning_ > 0, "linearise: every layer keeps its attention: there is nothing to align");
    require(teacher.depth() == student.depth() && teacher.width() == student.width(),
            "linearise: a teacher of ", teacher.depth(), " layers of width ", teacher.width(),
            ", a student of ", student.depth(), " of width ", student.width());
    require(teacher.vocabulary() == student.vocabulary(), "linearise: the teacher has a vocabulary of ",
            teacher.vocabulary(), ", the student of ", student.vocabulary());
  }

  /// @{
  /// An error of the compiler: temporary windows, or a temporary teacher, would not live as long.
  template <std::same_as<token_windows> W>
  mixer_trainer(D&, Student&, const W&&, const Teacher&, training_options, C& = comm::alone) {
    static_assert(
        sizeof(W) == 0,
        "distil_xlstm::mixer_trainer refers to the windows, which must live as long: give them a name first");
  }
  template <std::same_as<Teacher> M>
  mixer_trainer(D&, Student&, const token_windows&, const M&&, training_options) {
    static_assert(
        sizeof(M) == 0,
        "distil_xlstm::mixer_trainer refers to the teacher, which must live as long: give it a name first");
  }
  /// @}

  /// Of each layer in the last step; 0 where it keeps attention.
  const std::vector<double>& layer_errors() const { return errors_; }

 private:
  void begin(const step_metrics& m, const schedule::clock&, double) { host_inputs_ = {m.lr, this->updates_}; }
  void upload_inputs() {
    device_->upload(inputs_.data(), &host_inputs_, static_cast<index>(sizeof host_inputs_));
  }
  void prepare_micro_batch(index) {}
  void run_micro_batch() {
    for_each_mixer(*device_, *teacher_, batch_.view(), batch_.ids(),
                   [&](index i, operands u, matrix_view<const T> a) { align(i, u, a); });
    book(times_.backward);
  }
  void align(index i, operands u, matrix_view<const T> a) {
    const auto at = static_cast<std::size_t>(i);
    if (student_->config().mixers[at] == mixer_kind::attention) return;
    std::visit(
        [&](const auto& layer) {
          using Layer = std::remove_cvref_t<decltype(layer)>;
          const auto part = [&](auto& all) -> const auto& {
            return Layer::mixer_of(std::get<weights_t<Layer, T>>(all.views().stack.blocks[at]));
          };
          align(i, layer.mixer, part(student_->weights()), part(this->gradients()), u, a);
        },
        student_->stack().blocks.blocks[at].block);
  }
  template <class Mixer>
  void align(index i, const Mixer& mixer, const weights_t<Mixer, T>& weights,
             const weights_t<Mixer, T>& gradients, operands u, matrix_view<const T> a) {
    D& d = *device_;
    const sequence_view seq = batch_.view();
    struct parts {
      tape_t<Mixer, T> tape;
      matrix_view<T> y, norms, totals;
    };
    const auto memory = make_scratch<T>(d, [&](auto& l) {
      l.half_operands(2 * sizeof(operand_t<D, T>) <= sizeof(T));
      parts p{mixer.tape(l, seq), {}, {}, {}};
      p.y = l.matrix("", seq.rows(), u.cols);
      p.norms = l.matrix("", seq.rows(), 2), p.totals = l.matrix("", 1, 2);
      return p;
    });
    // A window's ring, a memory's start: of a text from its beginning. Once for all layers of a kind.
    const auto& tape = memory.views.tape;
    const matrix_view<T> y = memory.views.y, norms = memory.views.norms, totals = memory.views.totals;
    auto& state = state_of(mixer);
    state.reset();
    mixer.forward(d, seq, weights, state.views(), tape, u, y);
    book(times_.forward);
    fold_rows(d, y.rows, y.cols, detail::row_distances<T>{{}, a, y, norms});
    fill(d, totals);
    add_column_sums(d, matrix_view<const T>(norms), totals.data);
    book(times_.objective);
    this->ranks().sum(d, totals.data, 2);
    book(times_.exchange);
    const T part = T(1) / static_cast<T>(options_.accumulate);
    const T reported = this->ranks().rank() == 0 ? part : T(0);  // the batch's error is one, not each rank's
    parallel_for(d, 1, detail::add_layer_error<T>{totals.data, reported, i, this->sums(0)});
    const auto back = [&]<class Operand>(Operand) {
      const auto scratch = scratch_matrices<Operand>(d, y.rows, y.cols);
      const matrix_view<Operand> dy = scratch.views[0];
      map(d, y.rows, y.cols, detail::distance_gradient<T, Operand>{a, norms, y, totals.data, part, dy});
      book(times_.objective);
      mixer.backward(d, seq, weights, gradients, tape, u, matrix_view<const Operand>(dy), matrix_view<T>());
      book(times_.backward);
    };
    // Products alone read it, but for the gradient of a bias, which sums numbers that are not rounded.
    mixer.projections().output_bias ? back(T()) : back(operand_t<D, T>());
  }
  void read(step_metrics& m, const double* own) {
    double sum = 0;
    for (std::size_t i = 0; i < errors_.size(); ++i) sum += errors_[i] = own[i];
    m.add("alignment", sum / static_cast<double>(learning_));
  }

  template <class Mixer>
  using state_memory_of = state_memory<Mixer, T, D>;
  /// Every layer of a kind has the same state, which no step keeps.
  template <class Mixer>
  state_memory_of<Mixer>& state_of(const Mixer& mixer) {
    auto& state = std::get<std::optional<state_memory_of<Mixer>>>(states_[mixer_window(mixer) > 0]);
    if (!state) state.emplace(*device_, mixer, this->windows());
    return *state;
  }
  static index mixer_window(const attention& a) { return a.window; }
  static index mixer_window(const hybrid_attention& a) { return a.base.window; }

  const Teacher* teacher_;
  index learning_ = 0;
  std::vector<double> errors_;
  detail::mixer_inputs host_inputs_{};
  buffer<detail::mixer_inputs, D> inputs_;
  /// Of mixers without a window, and with one.
  std::tuple<std::optional<state_memory_of<attention>>, std::optional<state_memory_of<hybrid_attention>>>
      states_[2];
};

}  // namespace distil_xlstm
