#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include <distil_xlstm/loss/any_objective.hpp>
#include <distil_xlstm/loss/distillation.hpp>
#include <distil_xlstm/math/kth_largest.hpp>
#include <distil_xlstm/testing/check_term.hpp>

#include "../random_numbers.hpp"

namespace distil_xlstm::loss {
namespace {

using numbers = std::vector<double>;
constexpr schedule::clock now{3, 10};
constexpr double infinity = std::numeric_limits<double>::infinity();

/// All that the passes over a row find.
template <class List>
typename List::results passes(const List& list, const numbers& s, const numbers& h) {
  using T = typename List::scalar;
  typename List::results r{};
  const auto fold = [&]<int Pass>() {
    auto a = list.template init<T, Pass>();
    for (std::size_t i = 0; i < s.size(); ++i) {
      const T student[1] = {static_cast<T>(s[i])}, teacher[1] = {static_cast<T>(h[i])};
      list.template visit<Pass>(a, r, student, teacher);
    }
    list.template record<Pass>(r, a);
  };
  list.select(r, [&](index k) {
    numbers sorted = h;
    std::sort(sorted.rbegin(), sorted.rend());
    return static_cast<T>(sorted[static_cast<std::size_t>(k - 1)]);
  });
  fold.template operator()<0>();
  if constexpr (List::two_passes) fold.template operator()<1>();
  return r;
}
template <class T>
target_logits<T> at_target(const numbers& s, const numbers& h, std::size_t target) {
  return {static_cast<T>(s[target]), static_cast<T>(h[target])};
}
/// A row of the site: value and gradient of a logits term, or of several.
template <class Term>
typename Term::scalar row_value(const Term& t, const numbers& s, const numbers& h, std::size_t target) {
  const auto list = testing::detail::as_list(t);
  return list.value(passes(list, s, h), at_target<typename Term::scalar>(s, h, target));
}
template <class Term>
numbers row_gradient(const Term& t, const numbers& s, const numbers& h, std::size_t target) {
  using T = typename Term::scalar;
  const auto list = testing::detail::as_list(t);
  const auto row = at_target<T>(s, h, target);
  const auto found = passes(list, s, h);
  numbers g;
  for (std::size_t i = 0; i < s.size(); ++i)
    g.push_back(static_cast<double>(list.grad(found, row, static_cast<T>(s[i]), static_cast<T>(h[i]))));
  g[target] += static_cast<double>(list.target_grad(found, row));
  return g;
}
/// What is logged of the only term.
template <class Term>
double logged(const Term& t, const numbers& s, const numbers& h) {
  const auto list = testing::detail::as_list(t);
  double raw = 0;
  list.report(passes(list, s, h), at_target<typename Term::scalar>(s, h, 0), &raw);
  return raw;
}

numbers softmax(const numbers& x, double temperature) {
  double sum = 0;
  numbers p;
  for (double v : x) sum += std::exp(v / temperature);
  for (double v : x) p.push_back(std::exp(v / temperature) / sum);
  return p;
}
double naive_kl(const numbers& p, const numbers& q) {
  double sum = 0;
  for (std::size_t i = 0; i < p.size(); ++i) sum += p[i] * std::log(p[i] / q[i]);
  return sum;
}

}  // namespace

BOOST_AUTO_TEST_CASE(values_are_the_naive_ones) {
  const numbers s = random_numbers<double>(50, 7, 3), t = random_numbers<double>(50, 8, 3);
  const auto tolerance = boost::test_tools::tolerance(1e-12);
  BOOST_TEST(row_value(cross_entropy_term<double>{}, s, t, 9) == -std::log(softmax(s, 1)[9]), tolerance);
  const double forward = naive_kl(softmax(t, 2), softmax(s, 2)),
               reverse = naive_kl(softmax(s, 2), softmax(t, 2));
  BOOST_TEST(row_value(kl_term<double>(2), s, t, 0) == 4 * forward, tolerance);
  BOOST_TEST(row_value(reverse_kl_term<double>(2), s, t, 0) == 4 * reverse, tolerance);
  BOOST_TEST(logged(kl_term<double>(2), s, t) == forward, tolerance);
  BOOST_TEST(std::abs(row_value(kl_term<double>(2), t, t, 0)) < 1e-12);

  const auto mixed = [](const numbers& a, const numbers& b, double share) {
    numbers m;
    for (std::size_t i = 0; i < a.size(); ++i) m.push_back(share * a[i] + (1 - share) * b[i]);
    return m;
  };
  for (const double T : {1.0, 2.0}) {
    const numbers p = softmax(t, T), q = softmax(s, T), m = mixed(p, q, 0.3);
    double variation = 0;
    for (std::size_t i = 0; i < p.size(); ++i) variation += std::abs(p[i] - q[i]) / 2;
    const double jsd = 0.3 * naive_kl(p, m) + 0.7 * naive_kl(q, m);
    BOOST_TEST(row_value(jsd_term<double>(T, 0.3), s, t, 0) == T * T * jsd, tolerance);
    BOOST_TEST(logged(jsd_term<double>(T, 0.3), s, t) == jsd, tolerance);
    BOOST_TEST(row_value(skew_kl_term<double>(T, 0.3), s, t, 0) == T * T * naive_kl(p, m), tolerance);
    BOOST_TEST(
        row_value(skew_reverse_kl_term<double>(T, 0.7), s, t, 0) == T * T * naive_kl(q, mixed(p, q, 0.7)),
        tolerance);
    BOOST_TEST(row_value(tvd_term<double>(T), s, t, 0) == T * T * variation, tolerance);
    for (const std::size_t k : {std::size_t{1}, std::size_t{7}, std::size_t{50}}) {
      numbers sorted = t;
      std::sort(sorted.rbegin(), sorted.rend());
      numbers some_t, some_s, with_rest_p{0}, with_rest_q{0};
      for (std::size_t i = 0; i < t.size(); ++i)
        if (t[i] >= sorted[k - 1])
          some_t.push_back(t[i]), some_s.push_back(s[i]), with_rest_p.push_back(p[i]),
              with_rest_q.push_back(q[i]);
        else
          with_rest_p[0] += p[i], with_rest_q[0] += q[i];
      if (k == t.size()) with_rest_p.erase(with_rest_p.begin()), with_rest_q.erase(with_rest_q.begin());
      const auto k_largest = static_cast<index>(k);
      BOOST_TEST(row_value(top_k_kl_term<double>(T, k_largest, tail::one_class), s, t, 0) ==
                     T * T * naive_kl(with_rest_p, with_rest_q),
                 tolerance);
      const double among = naive_kl(softmax(some_t, T), softmax(some_s, T));
      BOOST_TEST(std::abs(row_value(top_k_kl_term<double>(T, k_largest, tail::ignored), s, t, 0) -
                          T * T * among) < 1e-12 * (1 + among));
    }
  }
}

/// A fold that several terms have in common is computed once.
BOOST_AUTO_TEST_CASE(equal_folds_are_one) {
  const auto folds = [](const auto& e) { return e.template at<double>(now).logits.folds(); };
  BOOST_TEST(folds(kl(1) + cross_entropy()) == 2);
  BOOST_TEST(folds(kl(2) + cross_entropy()) == 3);
  BOOST_TEST(folds(jsd(0.3) + skew_kl(0.1) + tvd() + cross_entropy()) == 2);
  BOOST_TEST(folds(jsd(0.3, 2) + skew_kl(0.1, 2) + cross_entropy()) == 3);
  BOOST_TEST(folds(0.0 * kl(2) + cross_entropy()) == 1);  // nobody asks for the teacher
  BOOST_TEST(!kl(2).at<double>(now).logits.facts().second_pass);
  BOOST_TEST(tvd().at<double>(now).logits.facts().second_pass);
  const auto hidden = (frobenius() + mse()).at<double>(now).hidden;
  BOOST_TEST(hidden.folds() == 1);

  const numbers s = random_numbers<double>(20, 1, 3), t = random_numbers<double>(20, 2, 3);
  const auto sum = (0.4 * kl(1) + 0.5 * cross_entropy() + 0.2 * jsd(0.3)).at<double>(now).logits;
  BOOST_TEST(row_value(sum, s, t, 4) == 0.4 * row_value(kl_term<double>(1), s, t, 4) +
                                            0.5 * row_value(cross_entropy_term<double>{}, s, t, 4) +
                                            0.2 * row_value(jsd_term<double>(1, 0.3), s, t, 4),
             boost::test_tools::tolerance(1e-13));
}

/// What devices make of terms that know their softmax_factor.
BOOST_AUTO_TEST_CASE(a_gradient_is_a_sum_of_softmaxes) {
  const numbers s = random_numbers<double>(50, 7, 3), t = random_numbers<double>(50, 8, 3);
  const auto check = [&](const auto& objective, int folds) {
    const auto list = objective.template at<double>(now).logits;
    using list_type = std::remove_cvref_t<decltype(list)>;
    static_assert(list_type::sums_softmaxes);
    const auto found = passes(list, s, t);
    double factors[list_type::first_folds];
    list.softmax_factors(factors);
    for (std::size_t i = 0; i < s.size(); ++i) {
      double gradient = 0;
      int seen = 0;
      list.each_softmax([&](auto j, auto teaches, double inverse) {
        gradient += factors[j()] * softmax(teaches() ? t : s, 1 / inverse)[i], ++seen;
      });
      BOOST_TEST(seen == folds);
      BOOST_TEST(gradient == list.grad(found, at_target<double>(s, t, 9), s[i], t[i]),
                 boost::test_tools::tolerance(1e-10));
    }
  };
  check(kl(2), 2);
  check(0.4 * kl(2) + 0.5 * cross_entropy(), 3);
  check(0.4 * kl(1) + 0.5 * cross_entropy(), 2);
  check(0.4 * kl(2) + 0.5 * cross_entropy() + 0.3 * kl(2), 3);
  check(0.0 * kl(2) + 0.5 * cross_entropy(), 1);
  using mixed = decltype((cross_entropy() + reverse_kl(2)).at<double>(now).logits);
  static_assert(!mixed::sums_softmaxes);
}

/// Chosen at run time, a sum is what it is when the compiler knows it.
BOOST_AUTO_TEST_CASE(an_objective_of_the_command_line) {
  const schedule::linear warm{4.0, 1.0}, weight{0.2, 0.4};
  const numbers s = random_numbers<double>(50, 7, 3), t = random_numbers<double>(50, 8, 3);
  const auto compare = [&](const auto& known, const any_objective::logits_entry& e) {
    any_objective chosen;
    chosen.add(e);
    chosen.add({.kind = logits_kind::ce, .weight = weight});
    const auto want = (0.7 * known + weight * cross_entropy()).template at<double>(now).logits;
    const auto got = chosen.at<double>(now).logits;
    BOOST_TEST_CONTEXT(name_of(e.kind)) {
      const auto tolerance = boost::test_tools::tolerance(1e-13);
      BOOST_TEST(row_value(got, s, t, 9) == row_value(want, s, t, 9), tolerance);
      BOOST_TEST(row_gradient(got, s, t, 9) == row_gradient(want, s, t, 9),
                 boost::test_tools::tolerance(1e-9) << boost::test_tools::per_element());
      BOOST_TEST((got.facts() == want.facts()));
      BOOST_TEST(got.names()[0] == name_of(e.kind));
      BOOST_TEST(got.names()[1] == "ce");
      BOOST_TEST(got.names()[2] == "");
      BOOST_TEST((logits_kind_named(name_of(e.kind)) == e.kind));
    }
  };
  compare(kl(warm), {.kind = logits_kind::kl, .weight = 0.7, .temperature = warm});
  compare(reverse_kl(2), {.kind = logits_kind::reverse_kl, .weight = 0.7, .temperature = 2.0});
  compare(jsd(0.3, 2), {.kind = logits_kind::jsd, .weight = 0.7, .temperature = 2.0, .share = 0.3});
  compare(skew_kl(0.3), {.kind = logits_kind::skew_kl, .weight = 0.7, .share = 0.3});
  compare(skew_reverse_kl(0.3), {.kind = logits_kind::skew_reverse_kl, .weight = 0.7, .share = 0.3});
  compare(tvd(2), {.kind = logits_kind::tvd, .weight = 0.7, .temperature = 2.0});
  compare(top_k_kl(7), {.kind = logits_kind::top_k_kl, .weight = 0.7, .k = 7});
  compare(top_k_kl(7, tail::ignored),
          {.kind = logits_kind::top_k_kl, .weight = 0.7, .k = 7, .rest = tail::ignored});

  // Several of one kind are told apart; what is not computed has no name.
  const auto names = [](const any_objective& x) {
    const auto now_ = x.at<double>(now);
    auto all = std::vector<std::string_view>();
    for (const auto name : now_.logits.names()) all.push_back(name);
    for (const auto name : now_.hidden.names()) all.push_back(name);
    return all;
  };
  any_objective twice;
  twice.add({.kind = logits_kind::kl, .weight = 0.0});
  twice.add({.kind = logits_kind::ce});
  twice.add({.kind = logits_kind::kl, .weight = schedule::linear{0.0, 1.0}});
  twice.add({.form = alignment::ratio, .weight = 0.1});
  BOOST_TEST(names(twice) == (std::vector<std::string_view>{"kl_1", "ce", "kl_2", "", "frobenius"}),
             boost::test_tools::per_element());
  BOOST_TEST(twice.name(2) == "kl_2");
  twice.logits[2].weight = 0.0, twice.hidden.weight = 0.0;
  BOOST_TEST(names(twice) == (std::vector<std::string_view>{"", "ce", "", "", ""}),
             boost::test_tools::per_element());

  any_objective o;
  BOOST_CHECK_THROW(o.add(any_objective::hidden_entry{}), error);
  o.add({.form = alignment::cosine, .weight = 0.1});
  BOOST_TEST((o.at(now).compares == layers::ratio));
  BOOST_TEST(o.at<double>(now).hidden.weights()[0] == 0.1);
  BOOST_TEST(!o.at(now).logits.facts().active);
  BOOST_CHECK_THROW(o.add({.form = alignment::mse}), error);
  BOOST_CHECK_THROW(o.add({.kind = logits_kind::jsd, .share = 1.0}), error);
  BOOST_CHECK_THROW(o.add({.kind = logits_kind::top_k_kl}), error);
  for (std::size_t i = 0; i < any_objective::most_logits; ++i) o.add({.kind = logits_kind::ce});
  BOOST_CHECK_THROW(o.add({.kind = logits_kind::ce}), error);
  BOOST_CHECK_THROW(logits_kind_named("entropy"), error);
}

BOOST_AUTO_TEST_CASE(the_kth_largest) {
  for (const index n : {1, 2, 17, 300}) {
    numbers x = random_numbers<double>(n, static_cast<std::uint64_t>(n), 3);
    if (n > 10) x[3] = x[5] = x[7], x[1] = -infinity, x[2] = 0.0, x[4] = -0.0;
    numbers sorted = x;
    std::sort(sorted.rbegin(), sorted.rend());
    for (index k = 1; k <= n + 1; ++k) {
      math::kth_largest<double> search(k);
      while (!search.done()) {
        int counts[search.buckets] = {};
        for (const double v : x)
          if (const int b = search.bucket(v); b >= 0) ++counts[b];
        search.advance(counts);
      }
      BOOST_TEST(search.value() == sorted[static_cast<std::size_t>(std::min(k, n) - 1)]);
    }
  }
}

/// Logits that a mask has set to minus infinity, or that are huge, give finite losses and gradients.
BOOST_AUTO_TEST_CASE_TEMPLATE(extreme_logits, T, decltype(std::tuple<float, double>{})) {
  const auto all = (kl(2) + cross_entropy() + reverse_kl(1) + jsd(0.3) + skew_kl(0.1, 2) +
                    skew_reverse_kl(0.1) + tvd() + top_k_kl(2))
                       .at<T>(now)
                       .logits;
  const numbers rows[] = {{0, -infinity, 3, -infinity},
                          {-infinity, 1, 2, 3},
                          {1e30, 0, -1e30, 5},
                          {-1e4, 1e4, 0, 88},
                          {-infinity, -infinity, -infinity, -infinity},
                          {0, 0, 0, 0}};
  for (const auto& s : rows)
    for (const auto& t : rows)
      for (std::size_t target = 0; target < 4; ++target) {
        BOOST_TEST(std::isfinite(row_value(all, s, t, target)));
        for (double g : row_gradient(all, s, t, target)) BOOST_TEST(std::isfinite(g));
      }
  BOOST_TEST(
      row_value(cross_entropy_term<T>{}, rows[0], rows[0], 2) == static_cast<T>(std::log1p(std::exp(-3.0))),
      boost::test_tools::tolerance(static_cast<T>(1e-6)));
  BOOST_TEST(row_gradient(cross_entropy_term<T>{}, rows[0], rows[0], 2)[1] == 0);
  BOOST_TEST(std::isnan(row_value(cross_entropy_term<T>{}, {0, std::nan(""), 1}, {0, 0, 0}, 0)));
}

BOOST_AUTO_TEST_CASE(an_expression_is_linear_and_fused) {
  const schedule::linear alpha{0.8, 0.5}, temperature{2.0, 1.0};
  const double beta = 0.1;
  const auto e = alpha * kl(temperature) + (1 - alpha - beta) * cross_entropy() + beta * frobenius();
  static_assert(ObjectiveExpression<decltype(e)>);
  const auto o = e.at<double>(now);
  static_assert(std::is_trivially_copyable_v<decltype(o)>);
  static_assert(decltype(o.logits)::terms == 2 && decltype(o.hidden)::terms == 1);
  BOOST_TEST(o.logits.names()[0] == "kl");
  BOOST_TEST(o.logits.names()[1] == "ce");
  BOOST_TEST(o.hidden.names()[0] == "frobenius");
  BOOST_TEST(o.logits.weights()[0] == alpha.at(now));
  BOOST_TEST(o.logits.term<0>().temperature == temperature.at(now));
  BOOST_TEST(o.logits.weights()[1] == 1 - alpha.at(now) - beta);
  BOOST_TEST(o.hidden.weights()[0] == beta);

  const numbers s = random_numbers<double>(20, 1, 3), t = random_numbers<double>(20, 2, 3);
  const double value = row_value(o.logits, s, t, 4);
  BOOST_TEST(value == alpha.at(now) * row_value(kl_term<double>(temperature.at(now)), s, t, 4) +
                          (1 - alpha.at(now) - beta) * row_value(cross_entropy_term<double>{}, s, t, 4),
             boost::test_tools::tolerance(1e-13));

  static_assert(std::same_as<decltype(cross_entropy().at<float>(now).hidden), term_list<hidden_site, float>>);
  static_assert(std::same_as<decltype(mse().at<float>(now).logits), term_list<logits_site, float>>);
  static_assert(std::same_as<decltype(e.at(now))::scalar, float>);
  BOOST_CHECK_THROW(kl(0).at(now), error);
}

BOOST_AUTO_TEST_CASE(the_programs_objective) {
  distillation d;
  d.alpha = schedule::any<double>::named("logarithmic", 0.8, 0.5);
  d.temperature = schedule::any<double>::named("linear", 2, 1);
  d.form = alignment::cosine;
  const auto o = d.at<double>(now);
  static_assert(decltype(o.logits)::terms == 2 && decltype(o.hidden)::terms == 1);
  BOOST_TEST(o.logits.weights()[0] == d.alpha.at(now));
  BOOST_TEST(o.logits.weights()[1] == 1 - d.alpha.at(now) - 0.1, boost::test_tools::tolerance(1e-14));
  BOOST_TEST(o.logits.term<0>().temperature == 1.7, boost::test_tools::tolerance(1e-14));
  BOOST_TEST((o.hidden.term<0>().form == alignment::cosine));
  BOOST_TEST(o.logits.facts().uses_teacher);
  d.alpha = 0.0;
  d.form = alignment::none;
  BOOST_TEST(!d.at(now).logits.facts().uses_teacher);
  BOOST_TEST(!d.at(now).hidden.facts().active);
  BOOST_TEST(d.at(now).logits.weights()[1] == 1.f);
  for (auto a : {alignment::none, alignment::average, alignment::ratio, alignment::block_wise, alignment::paper,
                 alignment::cosine, alignment::mse})
    BOOST_TEST((alignment_named(name_of(a)) == a));
  BOOST_CHECK_THROW(alignment_named("mean"), error);
}

}  // namespace distil_xlstm::loss
