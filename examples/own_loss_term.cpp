// A term of one's own in the objective. A term is a fold over a row of logits, the student's beside the
// teacher's, and a gradient that is pointwise once the fold is done. That is all; in return terms add up: the
// sum of folds is a fold, so that a + b + c is still one pass over the vocabulary, vectorised and parallel, and
// no logit is stored for longer than a chunk of rows.
//
// The term here is the Bhattacharyya distance of student p and teacher q,
//
//   -log sum sqrt(p q)  =  (log sum exp s + log sum exp t) / 2  -  log sum exp ((s + t) / 2),
//
// which, unlike a Kullback-Leibler divergence, is the same from either side: three log-sum-exps, side by side.

#include <algorithm>
#include <cmath>
#include <iostream>
#include <vector>

#include <distil_xlstm/distil_xlstm.hpp>

namespace dx = distil_xlstm;
using namespace dx::loss;

// T is the number type; V is T or a pack of T's, as wide as the machine. What is written is the same.
template <class T>
struct bhattacharyya_term {
  using site = logits_site;
  using scalar = T;
  static constexpr const char* name = "bhattacharyya";
  static constexpr bool uses_teacher = true;

  // What the pass carries along. log_sum_exp is a running maximum and a sum relative to it: nothing overflows.
  template <class V>
  struct acc {
    dx::math::log_sum_exp<V> student, teacher, between;
  };
  template <class V>
  DISTIL_XLSTM_HD acc<V> init() const {
    using sum = dx::math::log_sum_exp<V>;
    return {sum::empty(), sum::empty(), sum::empty()};
  }
  template <class V>
  DISTIL_XLSTM_HD void visit(acc<V>& a, V s, V t) const {
    s = dx::math::clamp_min(s), t = dx::math::clamp_min(t);
    push(a.student, s), push(a.teacher, t), push(a.between, V(T(0.5)) * (s + t));
  }
  // Lanes of a pack, or parts of a row, come together.
  DISTIL_XLSTM_HD void merge(acc<T>& into, const acc<T>& from) const {
    join(into.student, from.student), join(into.teacher, from.teacher), join(into.between, from.between);
  }
  DISTIL_XLSTM_HD T value(const acc<T>& a, const target_logits<T>&) const {
    return (a.student.value() + a.teacher.value()) / 2 - a.between.value();
  }
  template <class V>
  DISTIL_XLSTM_HD V grad(const acc<T>& a, const target_logits<T>&, V s, V t) const {
    return V(T(0.5)) * (a.student.probability(s) - a.between.probability(V(T(0.5)) * (s + t)));
  }
  // Only cross entropy and its like have something to add where the target is.
  DISTIL_XLSTM_HD T target_grad(const acc<T>&, const target_logits<T>&) const { return T(0); }
};
static_assert(dx::LogitsTerm<bhattacharyya_term<float>>);

int main() {
  // It joins the library's terms in an expression, weights and temperature on schedules or not.
  const dx::schedule::linear alpha{0.6, 0.2};
  const auto expression =
      alpha * kl(2.0) + 0.3 * term(bhattacharyya_term<double>{}) + (0.7 - alpha) * cross_entropy();
  // At step 25 of 100 the schedules are numbers, and the sum is one fold.
  const auto objective = expression.at<double>({.step = 25, .total_steps = 100}).logits;

  // One pass, by hand: this loop is all that reads the logits for the value of the three terms.
  constexpr dx::index vocabulary = 50;
  constexpr std::int32_t target = 7;
  std::vector<double> s(vocabulary), t(vocabulary);
  dx::rng random(1);
  for (double& x : s) x = 2 * random.normal();
  for (double& x : t) x = 2 * random.normal();
  const auto fold = [&] {
    auto a = objective.init<double>();
    for (std::size_t i = 0; i < vocabulary; ++i) objective.visit(a, s[i], t[i]);
    return a;
  };
  const auto at_target = [&] { return target_logits<double>{s[target], t[target]}; };

  // The gradient, and the proof that it is one: central differences of the value, logit by logit.
  const auto folded = fold();
  const auto row = at_target();
  double worst = 0, largest = 0;
  for (std::size_t i = 0; i < vocabulary; ++i) {
    const double gradient =
        objective.grad(folded, row, s[i], t[i]) + (i == target ? objective.target_grad(folded, row) : 0.0);
    const auto value_at = [&, keep = s[i]](double shift) {
      s[i] = keep + shift;
      const double value = objective.value(fold(), at_target());
      s[i] = keep;
      return value;
    };
    constexpr double h = 1e-4;
    const double slope = (8 * (value_at(h) - value_at(-h)) - (value_at(2 * h) - value_at(-2 * h))) / (12 * h);
    worst = std::max(worst, std::abs(gradient - slope)), largest = std::max(largest, std::abs(slope));
  }
  std::cout << "gradient off by " << worst / largest << " of its largest number\n";

  // The same on the device, as a training step does it: the logits are made from hidden states, chunk by chunk,
  // folded in packs and threads, and turned into the gradient of the hidden states. With the identity as the
  // head, hidden states are logits.
  dx::device::cpu device;
  std::vector<double> head(vocabulary * vocabulary), gradient(vocabulary);
  for (std::size_t i = 0; i < vocabulary; ++i) head[i * vocabulary + i] = 1;
  const auto sums = dx::loss::head(device, objective, {s.data(), 1, vocabulary}, {t.data(), 1, vocabulary},
                                   dx::frozen_matrix{head.data(), dx::dtype::f64, vocabulary, vocabulary},
                                   &target, nullptr, 1.0, {gradient.data(), 1, vocabulary});
  for (std::size_t i = 0; i < sums.raw.size(); ++i)
    std::cout << objective.names()[i] << " " << sums.raw[i] << '\n';
  double apart = std::abs(sums.value - objective.value(folded, row));
  for (std::size_t i = 0; i < vocabulary; ++i)
    apart = std::max(apart, std::abs(gradient[i] - objective.grad(folded, row, s[i], t[i]) -
                                     (i == target ? objective.target_grad(folded, row) : 0.0)));
  std::cout << "weighted together " << sums.value << "; by hand the same, within " << apart << '\n';
  return worst / largest < 1e-9 && apart < 1e-12 ? 0 : 1;
}
