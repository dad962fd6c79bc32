#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <functional>
#include <iterator>
#include <type_traits>
#include <vector>

#include <distil_xlstm/core/rng.hpp>
#include <distil_xlstm/loss/term_list.hpp>
#include <distil_xlstm/testing/law_report.hpp>
#include <distil_xlstm/testing/tolerances.hpp>

namespace distil_xlstm::testing {

/// How a term is tried: on random numbers of a student and its teacher (or target).
struct term_options {
  index numbers = 37;      ///< of a row: logits or a hidden state
  std::uint64_t seed = 1;  ///< of the numbers
  double spread = 3;       ///< their standard deviation
  /// @{ How far a gradient may be from the finite difference, and two forms from each other, relatively.
  double gradient_limit = tolerance<double>::gradient_check;
  double forms_limit = tolerance<double>::forms;
  /// @}
};

namespace detail {

/// A term as a list of its own, a list as it is.
template <class Term>
auto as_list(const Term& t) {
  if constexpr (requires { t.facts(); })
    return t;
  else
    return loss::term_list<typename Term::site, typename Term::scalar, Term>({1.0}, {t});
}

/// Terms over one row of their site.
template <class List>
struct term_row {
  using results = typename List::results;
  static constexpr bool logits = std::is_same_v<typename List::site, loss::logits_site>;
  const List& list;
  std::vector<double> student, teacher;
  std::size_t target = 5;

  term_row(const List& l, const term_options& options) : list(l) {
    rng random(options.seed);
    for (auto* x : {&student, &teacher})
      for (index i = 0; i < options.numbers; ++i) x->push_back(options.spread * random.normal());
    target %= student.size();
  }
  std::size_t size() const { return student.size(); }
  auto context() const {
    if constexpr (logits)
      return loss::target_logits<double>{student[target], teacher[target]};
    else
      return loss::hidden_counts<double>{6, 3, 2, 6 * static_cast<double>(size())};
  }
  template <int Pass>
  auto fold(const results& before, std::size_t from, std::size_t to) const {
    auto a = list.template init<double, Pass>();
    for (std::size_t i = from; i < to; ++i) {
      const double s[1] = {student[i]}, t[1] = {teacher[i]};
      list.template visit<Pass>(a, before, s, t);
    }
    return a;
  }
  /// What all passes find; `fold_row.template operator()<Pass>(row, before)` folds the row once.
  template <class FoldRow>
  results passes(const FoldRow& fold_row) const {
    results r{};
    list.select(r, [this](index k) {
      std::vector<double> sorted = teacher;
      std::sort(sorted.begin(), sorted.end(), std::greater<>());
      return sorted[static_cast<std::size_t>(std::min(k, std::ssize(sorted)) - 1)];
    });
    list.template record<0>(r, fold_row.template operator()<0>(*this, r));
    if constexpr (List::two_passes) list.template record<1>(r, fold_row.template operator()<1>(*this, r));
    return r;
  }
  results passes() const {
    return passes([]<int Pass>(const term_row& row, const results& before) {
      return row.template fold<Pass>(before, 0, row.size());
    });
  }
  double value() const { return list.value(passes(), context()); }
  /// All that anybody asks of results: the value, and the gradient at each number.
  std::vector<double> outcome(const results& r) const {
    std::vector<double> out{list.value(r, context())};
    for (std::size_t i = 0; i < size(); ++i) out.push_back(list.grad(r, context(), student[i], teacher[i]));
    if constexpr (logits) out[1 + target] += list.target_grad(r, context());
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
template <class V, int Pass, class List>
auto fold_packs(const term_row<List>& row, const typename List::results& before) {
  using narrow = typename List::template acc<double, Pass>;
  constexpr index width = math::width_of<V>;
  constexpr std::size_t members = sizeof(narrow) / sizeof(double);
  auto wide = row.list.template init<V, Pass>();
  static_assert(sizeof wide == members * sizeof(V), "check_term: a fold must be an aggregate of V's only");
  const index whole = static_cast<index>(row.size()) / width * width;
  for (index i = 0; i < whole; i += width) {
    const V s[1] = {math::load<V>(row.student.data() + i)}, t[1] = {math::load<V>(row.teacher.data() + i)};
    row.list.template visit<Pass>(wide, before, s, t);
  }
  narrow total = row.template fold<Pass>(before, static_cast<std::size_t>(whole), row.size());
  for (index lane = 0; lane < width; ++lane) {
    narrow part = row.list.template init<double, Pass>();
    for (std::size_t m = 0; m < members; ++m) {
      double lanes[static_cast<std::size_t>(width)];
      math::store<V>(lanes, reinterpret_cast<const V*>(&wide)[m]);
      std::memcpy(reinterpret_cast<char*>(&part) + m * sizeof(double), lanes + lane, sizeof(double));
    }
    row.list.template merge<Pass>(total, part);
  }
  return total;
}

/// A row folded in parts a, b, c, which are joined in one order or another, in every pass, gives what it gives whole.
template <class Row>
law_report check_merges(const Row& row, const std::vector<double>& whole, double limit) {
  const std::size_t n = row.size();
  const auto outcome = [&](const auto& joined) {
    return row.outcome(row.passes([&]<int Pass>(const Row& r, const auto& before) {
      const auto part = [&](std::size_t from, std::size_t to) {
        return r.template fold<Pass>(before, from, to);
      };
      const auto merged = [&](auto into, const auto& from) {
        row.list.template merge<Pass>(into, from);
        return into;
      };
      return joined(merged, row.list.template init<double, Pass>(), part(0, n), part(0, n / 4),
                    part(n / 4, n / 2), part(n / 2, n));
    }));
  };
  const auto empty_first =
      outcome([](auto merged, auto empty, auto row_fold, auto, auto, auto) { return merged(empty, row_fold); });
  const auto empty_last =
      outcome([](auto merged, auto empty, auto row_fold, auto, auto, auto) { return merged(row_fold, empty); });
  const auto left =
      outcome([](auto merged, auto, auto, auto a, auto b, auto c) { return merged(merged(a, b), c); });
  const auto right =
      outcome([](auto merged, auto, auto, auto a, auto b, auto c) { return merged(a, merged(b, c)); });
  for (const auto& side : {empty_first, empty_last})
    if (auto r = judge("init is the identity of merge", largest_difference(side, whole), limit); !r.ok())
      return r;
  if (auto r = judge("merge is associative", largest_difference(left, right), limit); !r.ok()) return r;
  return judge("visiting a then b is merging the two visits", largest_difference(left, whole), limit);
}

/// Folds and gradients over packs V give what they give over scalars.
template <class V, class Row>
law_report check_packs(const Row& row, const typename Row::results& all, const std::vector<double>& whole,
                       double limit) {
  const char* law = "a pack is its lanes";
  const auto packs_fold = row.outcome(
      row.passes([]<int Pass>(const Row& r, const auto& before) { return fold_packs<V, Pass>(r, before); }));
  if (auto r = judge(law, largest_difference(packs_fold, whole), limit, "fold"); !r.ok()) return r;
  constexpr auto width = static_cast<std::size_t>(math::width_of<V>);
  std::vector<double> packs, scalars;
  for (std::size_t i = 0; i + width <= row.size(); i += width) {
    double lanes[width];
    math::store<V>(lanes, row.list.grad(all, row.context(), math::load<V>(row.student.data() + i),
                                        math::load<V>(row.teacher.data() + i)));
    for (std::size_t l = 0; l < width; ++l) {
      packs.push_back(lanes[l]);
      scalars.push_back(row.list.grad(all, row.context(), row.student[i + l], row.teacher[i + l]));
    }
  }
  return judge(law, largest_difference(packs, scalars), limit, "gradient");
}

/// Gradients beside central differences of the value.
template <class Row>
law_report check_derivative(Row& row, const std::vector<double>& whole, const term_options& options) {
  const std::size_t n = row.size();
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
  return judge(
      Row::logits ? "grad + target_grad is the derivative of value" : "grad is the derivative of value",
      largest > 0 ? worst / largest : worst, options.gradient_limit, "number ", at,
      Row::logits && at == row.target ? " (the target)" : "");
}

}  // namespace detail

/// Tries the laws of LogitsTerm or HiddenTerm on one term of the scalar double, or on a list of them. With a pack
/// of a device as V (`check_term<device::pack<double>>(t)`), the term must give over packs what it gives over
/// scalars, too.
template <class V = double, class Term>
law_report check_term(const Term& term, const term_options& options = {}) {
  static_assert(std::is_same_v<typename Term::scalar, double>,
                "check_term: laws are tried in double; write check_term(my_term<double>{...})");
  const auto list = detail::as_list(term);
  using row_type = detail::term_row<std::remove_const_t<decltype(list)>>;
  row_type row(list, options);
  const auto all = row.passes();
  const auto whole = row.outcome(all);
  for (const double v : whole)
    if (!std::isfinite(v)) return detail::judge("values and gradients are finite", INFINITY, 0);
  if (auto r = detail::check_merges(row, whole, options.forms_limit); !r.ok()) return r;
  if constexpr (math::width_of < V >> 1)
    if (auto r = detail::check_packs<V>(row, all, whole, options.forms_limit); !r.ok()) return r;
  return detail::check_derivative(row, whole, options);
}

}  // namespace distil_xlstm::testing
