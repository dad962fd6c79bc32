#define BOOST_TEST_MODULE loss_term
#include <boost/test/unit_test.hpp>

#include <cmath>
#include <limits>
#include <vector>

#include <distil_xlstm/core/rng.hpp>
#include <distil_xlstm/loss/distillation.hpp>

namespace distil_xlstm::loss {
namespace {

using numbers = std::vector<double>;
constexpr double infinity = std::numeric_limits<double>::infinity();

numbers random(index n, std::uint64_t seed, double spread = 3) {
  rng r(seed);
  numbers x(static_cast<std::size_t>(n));
  for (auto& v : x) v = spread * r.normal();
  return x;
}

template <class Term>
using acc_of = typename Term::template acc<typename Term::scalar>;

template <class Term>
acc_of<Term> fold(const Term& t, const numbers& s, const numbers& h, std::size_t from, std::size_t to) {
  using T = typename Term::scalar;
  auto a = t.template init<T>();
  for (std::size_t i = from; i < to; ++i) t.template visit<T>(a, static_cast<T>(s[i]), static_cast<T>(h[i]));
  return a;
}

/// A row of the site: value and gradient of a logits term.
template <class Term>
typename Term::scalar row_value(const Term& t, const numbers& s, const numbers& h, std::size_t target) {
  using T = typename Term::scalar;
  return t.value(fold(t, s, h, 0, s.size()),
                 target_logits<T>{static_cast<T>(s[target]), static_cast<T>(h[target])});
}
template <class Term>
numbers row_gradient(const Term& t, const numbers& s, const numbers& h, std::size_t target) {
  using T = typename Term::scalar;
  const target_logits<T> row{static_cast<T>(s[target]), static_cast<T>(h[target])};
  const auto a = fold(t, s, h, 0, s.size());
  numbers g;
  for (std::size_t i = 0; i < s.size(); ++i)
    g.push_back(static_cast<double>(t.template grad<T>(a, row, static_cast<T>(s[i]), static_cast<T>(h[i]))));
  g[target] += static_cast<double>(t.target_grad(a, row));
  return g;
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

constexpr schedule::clock now{3, 10};

}  // namespace

BOOST_AUTO_TEST_CASE(values_are_the_naive_ones) {
  const numbers s = random(50, 7), t = random(50, 8);
  const auto tolerance = boost::test_tools::tolerance(1e-12);
  BOOST_TEST(row_value(cross_entropy_term<double>{}, s, t, 9) == -std::log(softmax(s, 1)[9]), tolerance);
  const double forward = naive_kl(softmax(t, 2), softmax(s, 2)),
               reverse = naive_kl(softmax(s, 2), softmax(t, 2));
  BOOST_TEST(row_value(kl_term<double>(2), s, t, 0) == 4 * forward, tolerance);
  BOOST_TEST(row_value(reverse_kl_term<double>(2), s, t, 0) == 4 * reverse, tolerance);
  const auto kl2 = kl_term<double>(2);
  BOOST_TEST(kl2.raw(fold(kl2, s, t, 0, 50), {}) == forward, tolerance);
  BOOST_TEST(std::abs(row_value(kl2, t, t, 0)) < 1e-12);
}

/// Logits that a mask has set to minus infinity, or that are huge, give finite losses and gradients.
BOOST_AUTO_TEST_CASE_TEMPLATE(extreme_logits, T, decltype(std::tuple<float, double>{})) {
  const auto all = (kl(2) + cross_entropy() + reverse_kl(1)).at<T>(now).logits;
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
  BOOST_TEST(o.logits.left.weight == alpha.at(now));
  BOOST_TEST(o.logits.left.term.temperature == temperature.at(now));
  BOOST_TEST(o.logits.right.weight == 1 - alpha.at(now) - beta);
  BOOST_TEST(o.hidden.weight == beta);

  const numbers s = random(20, 1), t = random(20, 2);
  const double value = row_value(o.logits, s, t, 4);
  BOOST_TEST(value == alpha.at(now) * row_value(kl_term<double>(temperature.at(now)), s, t, 4) +
                          (1 - alpha.at(now) - beta) * row_value(cross_entropy_term<double>{}, s, t, 4),
             boost::test_tools::tolerance(1e-13));

  static_assert(std::same_as<decltype(cross_entropy().at<float>(now).hidden), none<hidden_site, float>>);
  static_assert(std::same_as<decltype(mse().at<float>(now).logits), none<logits_site, float>>);
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
  BOOST_TEST(o.logits.left.weight == d.alpha.at(now));
  BOOST_TEST(o.logits.right.weight == 1 - d.alpha.at(now) - 0.1, boost::test_tools::tolerance(1e-14));
  BOOST_TEST(o.logits.left.term.temperature == 1.7, boost::test_tools::tolerance(1e-14));
  BOOST_TEST((o.hidden.term.form == alignment::cosine));
  BOOST_TEST(o.logits.uses_teacher());
  d.alpha = 0.0;
  d.form = alignment::none;
  BOOST_TEST(!d.at(now).logits.uses_teacher());
  BOOST_TEST(!d.at(now).hidden.active());
  BOOST_TEST(d.at(now).logits.right.weight == 1.f);
  for (auto a : {alignment::none, alignment::average, alignment::ratio, alignment::block_wise, alignment::paper,
                 alignment::cosine, alignment::mse})
    BOOST_TEST((alignment_named(name_of(a)) == a));
  BOOST_CHECK_THROW(alignment_named("mean"), error);
}

}  // namespace distil_xlstm::loss
