// A term of one's own in the objective. A term is a few folds over a row of logits, the student's beside the
// teacher's, a value of their results, and a gradient that is pointwise once the folds are done. That is all; in
// return terms add up: a + b + c is still one pass over the vocabulary, vectorised and parallel, what two terms
// fold alike is folded once, and no logit is stored for longer than a chunk of rows.
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
using dx::math::log_sum_exp;

// T is the number type; V is T or a pack of T's, as wide as the machine. What is written is the same. `tempered`
// gives what terms of logits share: s / T and t / T by name, so that `kl` at the same temperature and this term have
// the student's log-sum-exp in common, and T² where the objective weighs the term. A log_sum_exp is a running maximum
// and a sum relative to it: nothing overflows.
template <class T>
struct bhattacharyya_term : tempered<T> {
  using lse = log_sum_exp<T>;
  static constexpr const char* name = "bhattacharyya";
  template <class V>
  DISTIL_XLSTM_HD auto folds(V s, V t) const {
    return fold_list(fold<log_sum_exp>(this->student_logit(s)), fold<log_sum_exp>(this->teacher_logit(t)),
                     fold<log_sum_exp>(this->logit((s + t) / V(2))));
  }
  DISTIL_XLSTM_HD T value(auto, lse s, lse t, lse m) const { return (s.value() + t.value()) / 2 - m.value(); }
  template <class V>
  DISTIL_XLSTM_HD V grad(auto, V s, V t, lse p, lse, lse m) const {
    return V(this->inverse / 2) * (p.probability(this->logit(s)) - m.probability(this->logit((s + t) / V(2))));
  }
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
  const auto fold_row = [&] {
    auto a = objective.init<double>();
    for (std::size_t i = 0; i < vocabulary; ++i) objective.visit(a, s[i], t[i]);
    objective.share(a);  // what was computed once for several terms
    return a;
  };
  const auto at_target = [&] { return target_logits<double>{s[target], t[target]}; };

  // The gradient, and the proof that it is one: central differences of the value, logit by logit.
  const auto folded = fold_row();
  const auto row = at_target();
  double worst = 0, largest = 0;
  for (std::size_t i = 0; i < vocabulary; ++i) {
    const double gradient =
        objective.grad(folded, row, s[i], t[i]) + (i == target ? objective.target_grad(folded, row) : 0.0);
    const auto value_at = [&, keep = s[i]](double shift) {
      s[i] = keep + shift;
      const double value = objective.value(fold_row(), at_target());
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
