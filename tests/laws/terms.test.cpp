#include <boost/test/unit_test.hpp>

#include <distil_xlstm/device/cpu/pack.hpp>
#include <distil_xlstm/loss/distillation.hpp>
#include <distil_xlstm/testing/check_expression.hpp>

// The laws of LogitsTerm, HiddenTerm and ObjectiveExpression.
namespace distil_xlstm::loss {
namespace {

constexpr schedule::clock now{3, 10};

template <class Term>
void check(const Term& term, double spread = 3) {
  const auto report = testing::check_term<device::pack<double>>(term, {.spread = spread});
  BOOST_TEST(report.ok(), Term::terms << " terms: " << report.text);
}
/// A term by itself, weighted, and fused with another.
template <class E>
void check_named(const char* name, const E& e) {
  BOOST_TEST_CONTEXT(name) {
    const auto o = e.template at<double>(now);
    if constexpr (decltype(o.logits)::terms > 0) {
      const auto report = testing::check_term<device::pack<double>>(o.logits.template term<0>());
      BOOST_TEST(report.ok(), report.text);
      check((-0.3 * e).template at<double>(now).logits);
      check((e + 0.6 * cross_entropy() + 0.2 * e).template at<double>(now).logits);
    } else {
      const auto report = testing::check_term<device::pack<double>>(o.hidden.template term<0>());
      BOOST_TEST(report.ok(), report.text);
      check((-0.3 * e).template at<double>(now).hidden);
      check((e + 0.6 * mse(o.compares) + 0.2 * e).template at<double>(now).hidden);
    }
  }
}

/// A user's own term over a fold of its own, with one fault or none.
enum class fault { none, identity, merge, order, packs, target, sign, not_finite };
template <fault Fault>
struct faulty {
  template <class V>
  struct sum {
    V total;
    static sum empty() { return {V(Fault == fault::identity ? 1 : 0)}; }
    friend void push(sum& a, V x) {
      if (Fault == fault::order) a.total = a.total * V(0.9);
      a.total = a.total + x;
      if (Fault == fault::packs && math::width_of < V >> 1) a.total = a.total + V(0.01);
    }
    friend void join(sum& into, const sum& from) {
      into.total = Fault == fault::merge
                       ? into.total - from.total + 2 * into.total * (into.total == 0 ? 0 : from.total != 0)
                       : into.total + from.total;
      if (Fault == fault::merge && into.total < 0) into.total = -into.total;
    }
  };
};
template <fault Fault>
struct squared_logits {
  using site = logits_site;
  using scalar = double;
  using sum = typename faulty<Fault>::template sum<double>;
  static constexpr const char* name = "squared";
  static constexpr bool uses_teacher = false;

  template <class V>
  auto folds(V s, V) const {
    return fold_list(fold<faulty<Fault>::template sum>(s * s));
  }
  double value(const target_logits<double>& row, const sum& squares) const {
    if (Fault == fault::not_finite) return squares.total / 0.0;
    return squares.total + 3 * row.student;
  }
  template <class V>
  V grad(const target_logits<double>&, V s, V, const sum&) const {
    return Fault == fault::sign ? V(0) - s - s : s + s;
  }
  double target_grad(const target_logits<double>&, const sum&) const { return Fault == fault::target ? 0 : 3; }
};

/// A hidden term whose gradient forgets the counts.
struct forgets_counts : mse_term<double> {
  template <class V>
  V grad(const hidden_counts<double>&, V student, V target, const sum&) const {
    return (student - target) * V(2);
  }
};

/// An expression that is another at each call.
struct grows {
  using is_objective_expression = void;
  template <class T = float>
  auto at(const schedule::clock& c) const {
    static int calls = 0;
    return (++calls * cross_entropy()).template at<T>(c);
  }
};

template <class Term>
std::string broken_law(const Term& t) {
  return testing::check_term<device::pack<double>>(t).law;
}

}  // namespace

BOOST_AUTO_TEST_CASE(logits_terms) {
  check_named("ce", cross_entropy());
  check_named("kl", kl(1));
  check_named("kl, warm", kl(2.5));
  check_named("kl, a schedule", kl(schedule::linear{4.0, 1.0}));
  check_named("reverse_kl", reverse_kl(1));
  check_named("reverse_kl, warm", reverse_kl(1.5));
  check_named("jsd", jsd(0.3));
  check_named("jsd, warm", jsd(0.5, schedule::linear{4.0, 1.0}));
  check_named("skew_kl", skew_kl(0.1));
  check_named("skew_kl, warm", skew_kl(0.7, 2));
  check_named("skew_reverse_kl", skew_reverse_kl(0.1));
  check_named("skew_reverse_kl, warm", skew_reverse_kl(0.7, 2));
  check_named("tvd", tvd());
  check_named("tvd, warm", tvd(2.5));
  for (const index k : {1, 6, 37, 50})
    for (const auto rest : {tail::one_class, tail::ignored}) {
      if (k == 1 && rest == tail::ignored) continue;  // 0 everywhere
      check_named("top_k_kl", top_k_kl(k, rest));
      check_named("top_k_kl, warm", top_k_kl(k, rest, 1.5));
    }
  check((0.3 * jsd(0.3, 2) + 0.5 * kl(2) + 0.2 * top_k_kl(4) + 0.3 * tvd(2) +
         0.6 * top_k_kl(9, tail::ignored, 2) + 0.1 * cross_entropy())
            .at<double>(now)
            .logits);
  check((0.3 * kl(2) + 0.6 * cross_entropy() + 0.2 * reverse_kl(1.5)).at<double>(now).logits, 8);
  check_named("a term of one's own", 0.01 * term(squared_logits<fault::none>{}));
}

BOOST_AUTO_TEST_CASE(hidden_terms) {
  for (const scope s : {scope::row, scope::sequence, scope::batch})
    check_named("frobenius", frobenius(layers::average, s));
  check_named("cosine", cosine());
  check_named("mse", mse());
  for (const auto form : {alignment::none, alignment::average, alignment::ratio, alignment::block_wise,
                          alignment::paper, alignment::cosine, alignment::mse})
    check_named("alignment", term(form));
  check((frobenius() + 0.5 * cosine() + mse()).at<double>(now).hidden, 0.01);
}

BOOST_AUTO_TEST_CASE(faults_are_found_under_their_law) {
  BOOST_TEST(broken_law(squared_logits<fault::none>{}) == "");
  BOOST_TEST(broken_law(squared_logits<fault::not_finite>{}) == "values and gradients are finite");
  BOOST_TEST(broken_law(squared_logits<fault::identity>{}) == "init is the identity of merge");
  BOOST_TEST(broken_law(squared_logits<fault::merge>{}) == "merge is associative");
  BOOST_TEST(broken_law(squared_logits<fault::order>{}) == "visiting a then b is merging the two visits");
  BOOST_TEST(broken_law(squared_logits<fault::packs>{}) == "a pack is its lanes");
  BOOST_TEST(broken_law(squared_logits<fault::target>{}) == "grad + target_grad is the derivative of value");
  BOOST_TEST(broken_law(squared_logits<fault::sign>{}) == "grad + target_grad is the derivative of value");
  BOOST_TEST(broken_law(forgets_counts{}) == "grad is the derivative of value");
}

BOOST_AUTO_TEST_CASE(expressions_are_linear) {
  const auto check_pair = [](const auto& a, const auto& b) {
    const auto report = testing::check_expression(a, b);
    BOOST_TEST(report.ok(), report.text);
  };
  const schedule::linear alpha{0.8, 0.5}, temperature{2.0, 1.0};
  check_pair(kl(temperature), cross_entropy());
  check_pair(kl(2), frobenius());
  check_pair(mse(layers::ratio), term(alignment::cosine));
  check_pair(alpha * kl(temperature) + (1 - alpha - 0.1) * cross_entropy() + 0.1 * frobenius(),
             reverse_kl(3) + cosine());
  check_pair(distillation{}, term(squared_logits<fault::none>{}));
  BOOST_TEST(testing::check_expression(grows{}, mse()).law == "at() is linear");
}

}  // namespace distil_xlstm::loss
