#pragma once

#include <type_traits>
#include <vector>

#include <distil_xlstm/loss/expression.hpp>
#include <distil_xlstm/schedule/linear.hpp>
#include <distil_xlstm/testing/check_term.hpp>

namespace distil_xlstm::testing {

namespace detail {
/// Values and gradients of an objective on one random row of each site, logits first; absent terms give 0.
template <class Objective>
std::vector<double> outcome_of(const Objective& o, const term_options& options) {
  std::vector<double> all;
  const auto append = [&](const auto& term) {
    using term_type = std::remove_cvref_t<decltype(term)>;
    if constexpr (term_type::terms > 0) {
      const term_row<term_type> row(term, options);
      for (double v : row.outcome(row.passes())) all.push_back(v);
    } else {
      all.resize(all.size() + static_cast<std::size_t>(1 + options.numbers));
    }
  };
  append(o.logits);
  append(o.hidden);
  return all;
}
}  // namespace detail

/// Tries the law of ObjectiveExpression on two expressions: at() is linear, with numbers and with schedules as
/// weights, and what it gives is trivially copyable.
template <ObjectiveExpression A, ObjectiveExpression B>
law_report check_expression(const A& a, const B& b, schedule::clock c = {3, 10, 0},
                            const term_options& options = {}) {
  using loss::operator*, loss::operator+;
  const double number = 0.75;
  const schedule::linear<double> weight{0.9, -0.3};
  const auto joined = (number * a + weight * b).template at<double>(c);
  const auto nested = (weight * (number * (b + a))).template at<double>(c);
  static_assert(std::is_trivially_copyable_v<decltype(joined)> &&
                std::is_trivially_copyable_v<decltype(nested)>);
  const auto x = detail::outcome_of(a.template at<double>(c), options),
             y = detail::outcome_of(b.template at<double>(c), options);
  std::vector<double> sum, scaled;
  for (std::size_t i = 0; i < x.size(); ++i) {
    sum.push_back(number * x[i] + weight.at(c) * y[i]);
    scaled.push_back(weight.at(c) * number * (x[i] + y[i]));
  }
  const char* law = "at() is linear";
  if (auto r = detail::judge(law, detail::largest_difference(detail::outcome_of(joined, options), sum),
                             options.forms_limit, "w a + v b");
      !r.ok())
    return r;
  return detail::judge(law, detail::largest_difference(detail::outcome_of(nested, options), scaled),
                       options.forms_limit, "v (w (b + a))");
}

}  // namespace distil_xlstm::testing
