#define BOOST_TEST_MODULE program_objective
#include <boost/test/unit_test.hpp>
#include <string>
#include <vector>

#include "distil/objective.hpp"

namespace {

using program::parse_objective;
using shape = distil_xlstm::schedule::shape;

void check_refused(const std::string& text, const std::string& part) {
  BOOST_TEST_CONTEXT(text)
  BOOST_CHECK_EXCEPTION(parse_objective(text), distil_xlstm::error, [&](const auto& e) {
    BOOST_TEST_MESSAGE(e.what());
    return std::string(e.what()).find(part) != std::string::npos;
  });
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_sum_of_terms) {
  const auto o = parse_objective("0.5*kl(T=2) + 0.4*ce + 0.1*frobenius(average)");
  BOOST_REQUIRE(o.size() == 3u);
  BOOST_TEST(o[0].name == "kl");
  BOOST_TEST(o[0].weight.from == 0.5);
  BOOST_TEST(o[0].temperature.from == 2);
  BOOST_TEST(o[1].name == "ce");
  BOOST_TEST(o[1].weight.from == 0.4);
  BOOST_TEST(!o[1].hidden());
  BOOST_TEST(o[2].name == "frobenius");
  BOOST_TEST(o[2].layers == "average");
  BOOST_TEST(o[2].hidden());
}

BOOST_AUTO_TEST_CASE(every_term_and_its_arguments) {
  const auto o = parse_objective(
      "kl + reverse_kl(2) + ce() + jsd(0.1) + skew_kl(a=0.2, T=3) + skew_reverse_kl(0.3, 4) + tvd(T=5) + "
      "top_k_kl(20, ignored, 6) + frobenius(paper) + cosine + mse(layers = average)");
  BOOST_REQUIRE(o.size() == 11u);
  for (const auto& t : o) BOOST_TEST(t.weight.from == 1);
  BOOST_TEST(o[0].temperature.from == 1);
  BOOST_TEST(o[1].temperature.from == 2);
  BOOST_TEST(o[3].share == 0.1);
  BOOST_TEST(o[4].share == 0.2);
  BOOST_TEST(o[4].temperature.from == 3);
  BOOST_TEST(o[5].share == 0.3);
  BOOST_TEST(o[5].temperature.from == 4);
  BOOST_TEST(o[6].temperature.from == 5);
  BOOST_TEST(o[7].k == 20);
  BOOST_TEST(o[7].tail == "ignored");
  BOOST_TEST(o[7].temperature.from == 6);
  BOOST_TEST(o[8].layers == "paper");
  BOOST_TEST(o[10].layers == "average");
}

BOOST_AUTO_TEST_CASE(weights_and_temperatures_are_schedules) {
  const auto o = parse_objective("0.8:0.5:cosine * kl(T = 2:1) + 1e-1:2e+1:logarithmic*ce+0.5:0.5:delta*tvd");
  BOOST_REQUIRE(o.size() == 3u);
  BOOST_TEST((o[0].weight.shape == shape::cosine));
  BOOST_TEST(o[0].weight.from == 0.8);
  BOOST_TEST(o[0].weight.to == 0.5);
  BOOST_TEST((o[0].temperature.shape == shape::linear));
  BOOST_TEST(o[0].temperature.to == 1);
  BOOST_TEST((o[1].weight.shape == shape::logarithmic));
  BOOST_TEST(o[1].weight.from == 0.1);
  BOOST_TEST(o[1].weight.to == 20);
  BOOST_TEST((o[2].weight.shape == shape::constant));
}

BOOST_AUTO_TEST_CASE(equal_objectives_are_equal_texts) {
  const auto text = [](const char* s) { return program::text_of(parse_objective(s)); };
  BOOST_TEST(text("0.5*kl(T=2)+.4*ce + 1e-1 * frobenius") ==
             "0.5*kl(T=2) + 0.4*ce + 0.1*frobenius(layers=average)");
  BOOST_TEST(text("0.8:0.5*top_k_kl(20)") == "0.8:0.5:linear*top_k_kl(k=20, tail=one_class, T=1)");
  for (const char* s : {"0.8:0.5:delta*jsd(0.1, 2:1:cosine) + 3*mse(ratio)", "kl", "0*ce + 1e-07*tvd(3)"})
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
  check_refused("cosine(paper)", "(average, ratio, block_wise are known)");
  check_refused("mse(,)", "an argument is missing");
  check_refused("kl + kl(T=2)", "kl appears twice");
  check_refused("frobenius(average) + mse(ratio)", "compares layers average");
}
