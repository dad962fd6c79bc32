#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <type_traits>
#include <vector>

#include <distil_xlstm/core/rng.hpp>
#include <distil_xlstm/loss/term.hpp>
#include <distil_xlstm/testing/law_report.hpp>
#include <distil_xlstm/testing/tolerances.hpp>

namespace distil_xlstm::testing {

/// How a term is tried: on random numbers of a student and its teacher (or target).
struct term_options {
  index numbers = 37;
  std::uint64_t seed = 1;
  double spread = 3;  ///< their standard deviation
  double gradient_limit = tolerance<double>::gradient_check;
  double forms_limit = tolerance<double>::forms;
};

namespace detail {

/// A term over one row of its site.
template <class Term>
struct term_row {
  using acc = typename Term::template acc<double>;
  const Term& term;
  std::vector<double> student, teacher;
  std::size_t target = 5;

  term_row(const Term& t, const term_options& options) : term(t) {
    rng random(options.seed);
    for (auto* x : {&student, &teacher})
      for (index i = 0; i < options.numbers; ++i) x->push_back(options.spread * random.normal());
    target %= student.size();
  }
  std::size_t size() const { return student.size(); }
  auto context() const {
    if constexpr (LogitsTerm<Term>)
      return loss::target_logits<double>{student[target], teacher[target]};
    else
      return loss::hidden_counts<double>{6, 3, 2, 6 * static_cast<double>(size())};
  }
  acc fold(std::size_t from, std::size_t to) const {
    acc a = term.template init<double>();
    for (std::size_t i = from; i < to; ++i) term.template visit<double>(a, student[i], teacher[i]);
    return a;
  }
  double value() const { return term.value(fold(0, size()), context()); }
  /// All that anybody asks an accumulator: the value, and the gradient at each number.
  std::vector<double> outcome(const acc& a) const {
    std::vector<double> out{term.value(a, context())};
    for (std::size_t i = 0; i < size(); ++i)
      out.push_back(term.template grad<double>(a, context(), student[i], teacher[i]));
    if constexpr (LogitsTerm<Term>) out[1 + target] += term.target_grad(a, context());
    return out;
  }
};

inline double largest_difference(const std::vector<double>& a, const std::vector<double>& b) {
  double difference = 0, largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double off = std::abs(a[i] - b[i]);
    if (!(off <= difference)) difference = std::isnan(off) ? INFINITY : off;
    largest = std::max(largest, std::abs(b[i]));
  }
  return largest > 0 ? difference / largest : difference;
}

/// Folds `size / width_of<V>` packs and joins their lanes: an accumulator is an aggregate of numbers only.
template <class V, class Term>
typename Term::template acc<double> fold_packs(const term_row<Term>& row) {
  using narrow = typename Term::template acc<double>;
  constexpr index width = math::width_of<V>;
  constexpr std::size_t members = sizeof(narrow) / sizeof(double);
  auto wide = row.term.template init<V>();
  static_assert(sizeof wide == members * sizeof(V), "check_term: acc<V> must be an aggregate of V's only");
  const index whole = static_cast<index>(row.size()) / width * width;
  for (index i = 0; i < whole; i += width)
    row.term.template visit<V>(wide, math::load<V>(row.student.data() + i),
                               math::load<V>(row.teacher.data() + i));
  narrow total = row.fold(static_cast<std::size_t>(whole), row.size());
  for (index lane = 0; lane < width; ++lane) {
    narrow part = row.term.template init<double>();
    for (std::size_t m = 0; m < members; ++m) {
      double lanes[static_cast<std::size_t>(width)];
      math::store<V>(lanes, reinterpret_cast<const V*>(&wide)[m]);
      std::memcpy(reinterpret_cast<char*>(&part) + m * sizeof(double), lanes + lane, sizeof(double));
    }
    row.term.merge(total, part);
  }
  return total;
}

}  // namespace detail

/// Tries the laws of LogitsTerm or HiddenTerm on one term of the scalar double. With a pack of a device as V
/// (`check_term<device::pack<double>>(t)`), the term must give over packs what it gives over scalars, too.
template <class V = double, class Term>
requires(LogitsTerm<Term> || HiddenTerm<Term>) law_report
    check_term(const Term& term, const term_options& options = {}) {
  static_assert(std::is_same_v<typename Term::scalar, double>,
                "check_term: laws are tried in double; write check_term(my_term<double>{...})");
  using detail::largest_difference;
  detail::term_row<Term> row(term, options);
  const std::size_t n = row.size(), one = n / 4, two = n / 2;
  const auto whole = row.outcome(row.fold(0, n));
  const double limit = options.forms_limit;
  for (const double v : whole)
    if (!std::isfinite(v)) return detail::judge("values and gradients are finite", INFINITY, 0);

  const auto a = row.fold(0, one), b = row.fold(one, two), c = row.fold(two, n);
  const auto merged = [&](auto into, const auto& from) {
    term.merge(into, from);
    return into;
  };
  const auto empty = term.template init<double>(), all = row.fold(0, n);
  for (const auto& side : {merged(empty, all), merged(all, empty)})
    if (auto r =
            detail::judge("init is the identity of merge", largest_difference(row.outcome(side), whole), limit);
        !r.ok())
      return r;
  if (auto r = detail::judge(
          "merge is associative",
          largest_difference(row.outcome(merged(merged(a, b), c)), row.outcome(merged(a, merged(b, c)))),
          limit);
      !r.ok())
    return r;
  if (auto r = detail::judge("visiting a then b is merging the two visits",
                             largest_difference(row.outcome(merged(merged(a, b), c)), whole), limit);
      !r.ok())
    return r;

  if constexpr (math::width_of < V >> 1) {
    const char* law = "a pack is its lanes";
    if (auto r = detail::judge(law, largest_difference(row.outcome(detail::fold_packs<V>(row)), whole), limit,
                               "fold");
        !r.ok())
      return r;
    constexpr auto width = static_cast<std::size_t>(math::width_of<V>);
    std::vector<double> packs, scalars;
    for (std::size_t i = 0; i + width <= n; i += width) {
      double lanes[width];
      math::store<V>(lanes, term.template grad<V>(all, row.context(), math::load<V>(row.student.data() + i),
                                                  math::load<V>(row.teacher.data() + i)));
      for (std::size_t l = 0; l < width; ++l) {
        packs.push_back(lanes[l]);
        scalars.push_back(
            term.template grad<double>(all, row.context(), row.student[i + l], row.teacher[i + l]));
      }
    }
    if (auto r = detail::judge(law, largest_difference(packs, scalars), limit, "gradient"); !r.ok()) return r;
  }

  double worst = 0, largest = 0;
  std::size_t at = 0;
  for (std::size_t i = 0; i < n; ++i) {
    double& x = row.student[i];
    const double keep = x, step = 3e-4 * options.spread;
    const auto shifted = [&](double by) {
      x = keep + by;
      return row.value();
    };
    const double numeric =
        (8 * (shifted(step) - shifted(-step)) - (shifted(2 * step) - shifted(-2 * step))) / (12 * step);
    x = keep;
    const double off = std::abs(numeric - whole[1 + i]);
    if (!(off <= worst)) worst = off, at = i;
    largest = std::max(largest, std::abs(numeric));
  }
  return detail::judge(
      LogitsTerm<Term> ? "grad + target_grad is the derivative of value" : "grad is the derivative of value",
      largest > 0 ? worst / largest : worst, options.gradient_limit, "number ", at,
      LogitsTerm<Term> && at == row.target ? " (the target)" : "");
}

}  // namespace distil_xlstm::testing
