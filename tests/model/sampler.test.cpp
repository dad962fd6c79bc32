#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include <boost/test/unit_test.hpp>

#include <distil_xlstm/model/decoder.hpp>

#include "../refused.hpp"

namespace distil_xlstm {
namespace {

/// What is promised, by the schoolbook: rank everything, cut, draw.
std::int32_t choose_plainly(const std::vector<float>& logits, const sampling& how, rng& random) {
  std::vector<std::int32_t> ids;
  for (std::size_t i = 0; i < logits.size(); ++i)
    if (std::isfinite(logits[i])) ids.push_back(static_cast<std::int32_t>(i));
  const auto logit = [&](std::int32_t id) { return static_cast<double>(logits[static_cast<std::size_t>(id)]); };
  auto ranked = ids;
  std::stable_sort(ranked.begin(), ranked.end(), [&](auto a, auto b) { return logit(a) > logit(b); });
  if (how.temperature == 0 || how.top_k == 1) return ranked.front();
  const double highest = logit(ranked.front());
  if (how.top_k > 0 || how.top_p < 1) ids = ranked;
  if (how.top_k > 0) ids.resize(std::min(ids.size(), static_cast<std::size_t>(how.top_k)));
  std::vector<double> weights;
  for (const auto id : ids) weights.push_back(std::exp((logit(id) - highest) / how.temperature));
  const double all = std::accumulate(weights.begin(), weights.end(), 0.0);
  double sum = all;
  if (how.top_p < 1) {
    std::size_t n = 0;
    for (sum = 0; n < ids.size() && sum < how.top_p * all;) sum += weights[n++];
    ids.resize(n);
  }
  double left = random.uniform() * sum;
  std::size_t at = 0;
  while (at + 1 < ids.size() && (left -= weights[at]) >= 0) ++at;
  return ids[at];
}

}  // namespace

BOOST_AUTO_TEST_CASE(choices_are_the_schoolbook_s) {
  rng random(9);
  for (const std::size_t n : {1, 2, 5, 300, 20000})
    for (const double spread : {0.01, 1.0, 6.0}) {
      std::vector<float> logits(n);
      for (auto& x : logits) x = static_cast<float>(spread * random.normal());
      if (n == 300)
        for (std::size_t i = 0; i < n; ++i) {
          if (i % 3 == 0) logits[i] = 0.5f;  // equals, at every place in the ranking
          if (i % 10 == 7) logits[i] = std::numeric_limits<float>::quiet_NaN();
          if (i % 10 == 8) logits[i] = std::numeric_limits<float>::infinity();
          if (i % 10 == 9) logits[i] = -std::numeric_limits<float>::infinity();
        }
      for (const double temperature : {0.0, 0.4, 1.0})
        for (const index k : {0, 1, 2, 40, 299, 100000})
          for (const double p : {1e-9, 0.3, 0.95, 0.999999, 1.0}) {
            const sampling how{.temperature = temperature, .top_k = k, .top_p = p, .seed = 17};
            sampler choose(how);
            rng plain(how.seed);
            for (int i = 0; i < 4; ++i)
              BOOST_TEST(choose(std::span<const float>(logits)) == choose_plainly(logits, how, plain),
                         n << " tokens, spread " << spread << ", temperature " << temperature << ", top-k " << k
                           << ", top-p " << p);
          }
    }
}

BOOST_AUTO_TEST_CASE(tokens_come_as_often_as_they_are_likely) {
  const std::vector<double> logits = {0.3, -1, 2, 0, 1.1};
  for (const sampling& how :
       {sampling{.temperature = 0.7, .seed = 1}, {.top_k = 3, .seed = 2}, {.top_p = 0.75, .seed = 3}}) {
    std::vector<double> likely(logits.size());
    double sum = 0;
    for (std::size_t i = 0; i < logits.size(); ++i) {
      const bool in = how.top_k == 3 ? logits[i] > 0.2 : how.top_p < 1 ? logits[i] > 1 : true;
      sum += likely[i] = in ? std::exp(logits[i] / how.temperature) : 0;
    }
    sampler choose(how);
    std::vector<double> seen(logits.size());
    const int draws = 20000;
    for (int i = 0; i < draws; ++i) ++seen[static_cast<std::size_t>(choose(std::span<const double>(logits)))];
    for (std::size_t i = 0; i < logits.size(); ++i)
      BOOST_TEST(std::abs(seen[i] / draws - likely[i] / sum) <= 4 * std::sqrt(0.25 / draws), "token " << i);
  }
}

BOOST_AUTO_TEST_CASE(what_makes_no_sense) {
  BOOST_CHECK_EXCEPTION(sampler({.temperature = -1}), error, says("temperature of -1"));
  BOOST_CHECK_EXCEPTION(sampler({.temperature = INFINITY}), error, says("temperature"));
  BOOST_CHECK_EXCEPTION(sampler({.top_k = -1}), error, says("-1 likeliest"));
  BOOST_CHECK_EXCEPTION(sampler({.top_p = 0}), error, says("top-p"));
  BOOST_CHECK_EXCEPTION(sampler({.top_p = 1.5}), error, says("1.5"));
  const std::vector<float> none(70, std::numeric_limits<float>::quiet_NaN());
  for (const sampling& how : {sampling{.temperature = 0}, {}, {.top_k = 5}, {.top_p = 0.5}})
    BOOST_CHECK_EXCEPTION(sampler{how}(std::span<const float>(none)), numeric_error, says("finite"));
}

// The largest uniform number, and weights that each add twice themselves to the sum.
BOOST_AUTO_TEST_CASE(no_token_of_probability_0_is_drawn) {
  std::vector<float> logits(256, -5.0f);
  logits[70] = 3;
  for (std::size_t i = 96; i < 224; i += 32) logits[i] = 3 - 0.0366f;
  sampler choose({.temperature = 1e-3});
  choose.random_state(0x31628af67b2131abu);
  sampler again = choose;
  BOOST_TEST(again.draw() == 1 - 0x1p-53);
  BOOST_TEST(choose(std::span<const float>(logits)) == 192);
}

}  // namespace distil_xlstm
