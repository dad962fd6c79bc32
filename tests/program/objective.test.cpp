#include <boost/test/unit_test.hpp>
#include <string>

#include "../refused.hpp"
#include "distil/objective.hpp"

namespace {

using distil_xlstm::loss::alignment;
using distil_xlstm::loss::logits_kind;
using program::parse_objective;
using shape = distil_xlstm::schedule::shape;

void check_refused(const std::string& text, const std::string& part) {
  BOOST_TEST_CONTEXT(text)
  distil_xlstm::refused([&] { parse_objective(text); }, part);
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_sum_of_terms) {
  const auto o = parse_objective("0.5*kl(T=2) + 0.1*frobenius(average) + 0.4*ce");
  BOOST_REQUIRE(o.count == 2u);
  BOOST_TEST((o.logits[0].kind == logits_kind::kl));
  BOOST_TEST(o.logits[0].weight.from == 0.5);
  BOOST_TEST(o.logits[0].temperature.from == 2);
  BOOST_TEST((o.logits[1].kind == logits_kind::ce));
  BOOST_TEST(o.logits[1].weight.from == 0.4);
  BOOST_TEST((o.hidden.form == alignment::average));
  BOOST_TEST(o.hidden.weight.from == 0.1);
}

BOOST_AUTO_TEST_CASE(every_term_and_its_arguments) {
  const auto o = parse_objective("kl + reverse_kl(2) + ce() + jsd(0.1)");
  BOOST_REQUIRE(o.count == 4u);
  for (const auto& t : o.logits) BOOST_TEST(t.weight.from == 1);
  BOOST_TEST(o.logits[0].temperature.from == 1);
  BOOST_TEST((o.logits[1].kind == logits_kind::reverse_kl));
  BOOST_TEST(o.logits[1].temperature.from == 2);
  BOOST_TEST((o.logits[3].kind == logits_kind::jsd));
  BOOST_TEST(o.logits[3].share == 0.1);
  BOOST_TEST((o.hidden.form == alignment::none));

  const auto p =
      parse_objective("skew_kl(a=0.2, T=3) + skew_reverse_kl(0.3, 4) + tvd(T=5) + top_k_kl(20, ignored, 6)");
  BOOST_REQUIRE(p.count == 4u);
  BOOST_TEST((p.logits[0].kind == logits_kind::skew_kl));
  BOOST_TEST(p.logits[0].share == 0.2);
  BOOST_TEST(p.logits[0].temperature.from == 3);
  BOOST_TEST((p.logits[1].kind == logits_kind::skew_reverse_kl));
  BOOST_TEST(p.logits[1].share == 0.3);
  BOOST_TEST(p.logits[1].temperature.from == 4);
  BOOST_TEST((p.logits[2].kind == logits_kind::tvd));
  BOOST_TEST(p.logits[2].temperature.from == 5);
  BOOST_TEST((p.logits[3].kind == logits_kind::top_k_kl));
  BOOST_TEST(p.logits[3].k == 20);
  BOOST_TEST((p.logits[3].rest == distil_xlstm::loss::tail::ignored));
  BOOST_TEST(p.logits[3].temperature.from == 6);

  const auto form = [](const char* text) { return parse_objective(text).hidden.form; };
  BOOST_TEST((form("frobenius") == alignment::average));
  BOOST_TEST((form("frobenius(ratio)") == alignment::ratio));
  BOOST_TEST((form("frobenius(layers=block_wise)") == alignment::block_wise));
  BOOST_TEST((form("frobenius(paper)") == alignment::paper));
  BOOST_TEST((form("cosine") == alignment::cosine));
  BOOST_TEST((form("cosine(ratio)") == alignment::cosine));
  BOOST_TEST((form("mse(layers = average)") == alignment::mse));
}

BOOST_AUTO_TEST_CASE(weights_and_temperatures_are_schedules) {
  const auto o = parse_objective("0.8:0.5:cosine * kl(T = 2:1) + 1e-1:2e+1:logarithmic*ce+0.5:0.5:delta*tvd");
  BOOST_REQUIRE(o.count == 3u);
  BOOST_TEST((o.logits[0].weight.shape == shape::cosine));
  BOOST_TEST(o.logits[0].weight.from == 0.8);
  BOOST_TEST(o.logits[0].weight.to == 0.5);
  BOOST_TEST((o.logits[0].temperature.shape == shape::linear));
  BOOST_TEST(o.logits[0].temperature.to == 1);
  BOOST_TEST((o.logits[1].weight.shape == shape::logarithmic));
  BOOST_TEST(o.logits[1].weight.from == 0.1);
  BOOST_TEST(o.logits[1].weight.to == 20);
  BOOST_TEST((o.logits[2].weight.shape == shape::constant));
}

BOOST_AUTO_TEST_CASE(equal_objectives_are_equal_texts) {
  const auto text = [](const char* s) { return program::text_of(parse_objective(s)); };
  BOOST_TEST(text("0.5*kl(T=2)+.4*ce + 1e-1 * frobenius") ==
             "0.5*kl(T=2) + 0.4*ce + 0.1*frobenius(layers=average)");
  BOOST_TEST(text("0.8:0.5*top_k_kl(20)") == "0.8:0.5:linear*top_k_kl(k=20, tail=one_class, T=1)");
  BOOST_TEST(text("cosine + kl") == "1*kl(T=1) + 1*cosine(layers=ratio)");
  BOOST_TEST(text("frobenius(paper)") == "1*frobenius(layers=paper)");
  BOOST_TEST(text("ce + mse + kl(2) + kl(3)") == "1*ce + 1*kl(T=2) + 1*kl(T=3) + 1*mse(layers=average)");
  for (const char* s : {"0.8:0.5:delta*jsd(0.1, 2:1:cosine) + 3*mse", "kl", "0*ce + 1e-07*tvd(3)"})
    BOOST_TEST(text(s) == text(text(s).c_str()));
}

BOOST_AUTO_TEST_CASE(what_is_wrong_is_said) {
  check_refused("0.5*kll(T=2)", "'kll' is not a term (kl, reverse_kl, ce, jsd,");
  check_refused("0.5*kl(T=2) 0.4*ce", "more than one weight");
  check_refused("", "a term is missing");
  check_refused("kl + ", "a term is missing");
  check_refused("+kl", "a term is missing");
  check_refused("2*3*kl", "more than one weight");
  check_refused("x*kl", "the weight in 'x*kl' is 'x', neither a number nor a schedule");
  check_refused("-1*kl", "is negative");
  check_refused("nan*kl", "neither a number");
  check_refused("1:2:steep*kl", "schedule 'steep' is not known (constant, linear");
  check_refused("1:2:linear:4*kl", "FROM:TO:SHAPE");
  check_refused("kl(T=0)", "kl's T is 0, not positive");
  check_refused("kl(T=2:-1)", "not positive");
  check_refused("kl(T=2", "not closed");
  check_refused("kl(2)x", "something follows it");
  check_refused("kl(2, 3)", "'3' is one argument too many");
  check_refused("kl(t=2)", "kl has no t left to set (it takes T)");
  check_refused("kl(2, T=2)", "kl has no T left to set");
  check_refused("ce(2)", "'2' is one argument too many");
  check_refused("ce(T=2)", "it takes nothing");
  check_refused("jsd(1)", "jsd's beta is 1, not between 0 and 1");
  check_refused("skew_kl(a=x)", "skew_kl's a is 'x', not a number");
  check_refused("top_k_kl", "needs its k");
  check_refused("top_k_kl(2.5)", "not a whole number");
  check_refused("top_k_kl(5, tail=cut)", "(one_class, ignored are known)");
  check_refused("frobenius(all)", "(average, ratio, block_wise, paper are known)");
  check_refused("cosine(average)", "cosine's layers is 'average' (ratio is known)");
  check_refused("mse(ratio)", "mse's layers is 'ratio' (average is known)");
  check_refused("mse(,)", "an argument is missing");
  check_refused("kl + ce + tvd + jsd + reverse_kl", "at most 4 terms of logits; reverse_kl is one more");
  check_refused("frobenius(average) + mse", "has one alignment; mse is one more");
  check_refused("0*kl + ce", "the weight of kl is 0, and nothing else makes it be computed");
  check_refused("ce + 0:0*mse", "the weight of mse is 0");
  check_refused("0*ce", "no term has a weight above 0");
  parse_objective("0*kl + tvd + 0*ce");  // computed beside tvd, and logged
}
