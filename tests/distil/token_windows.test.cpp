#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include <unistd.h>

#include <distil_xlstm/core/rng.hpp>
#include <distil_xlstm/distil/perplexity.hpp>
#include <distil_xlstm/distil/token_windows.hpp>
#include <distil_xlstm/io/write_token_file.hpp>

namespace distil_xlstm {
namespace {

using numbers = std::vector<index>;

io::token_file file_of(index tokens, std::uint64_t seed, const std::vector<std::int64_t>& documents,
                       index vocabulary = 23, const char* tokenizer = "") {
  const auto path = std::filesystem::temp_directory_path() /
                    ("distil_xlstm-windows-" + std::to_string(::getpid()) + ".safetensors");
  rng random(seed);
  std::vector<std::int32_t> ids;
  for (index i = 0; i < tokens; ++i)
    ids.push_back(static_cast<std::int32_t>(random.below(static_cast<std::uint64_t>(vocabulary))));
  io::write_token_file(path, ids, documents, vocabulary, tokenizer);
  io::token_file out(path);
  std::filesystem::remove(path);
  return out;
}

/// Three texts' ranges by their windows and weights.
std::vector<window_range> ranges_of(const numbers& windows, const std::vector<double>& weights) {
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  std::vector<window_range> out;
  index first = 0;
  for (std::size_t k = 0; k < windows.size(); first += windows[k++])
    out.push_back({first, windows[k], weights[k] / sum});
  return out;
}

/// The first `rows` windows of a run, step by step.
numbers first_rows(window_sampler sampler, index rows, index a_step) {
  numbers all, step;
  for (index s = 0; std::ssize(all) < rows; ++s) {
    sampler.rows_of(s, 0, a_step, step);
    all.insert(all.end(), step.begin(), step.end());
  }
  all.resize(static_cast<std::size_t>(rows));
  return all;
}
std::size_t text_of(const std::vector<window_range>& ranges, index window) {
  std::size_t k = 0;
  while (window >= ranges[k].first + ranges[k].count) ++k;
  return k;
}
/// The windows of one text, in the order in which they are read.
numbers of_text(const std::vector<window_range>& ranges, const numbers& rows, std::size_t k) {
  numbers out;
  for (const index w : rows)
    if (text_of(ranges, w) == k) out.push_back(w - ranges[k].first);
  return out;
}

auto says(const std::string& what) {
  return [what](const error& e) {
    BOOST_TEST_MESSAGE(e.what());
    return std::string(e.what()).find(what) != std::string::npos;
  };
}

}  // namespace

BOOST_AUTO_TEST_CASE(one_text_is_read_as_ever) {
  // What runs of before have read; their checkpoints go on with it.
  const std::vector<std::pair<index, numbers>> shuffled = {{0, {2, 3, 9}}, {1, {7, 5, 8}}, {2, {6, 4, 0}},
                                                           {3, {0, 8, 1}}, {5, {5, 9, 2}}, {7, {0, 8, 7}}};
  for (auto sampler : {window_sampler(10, 3, window_order::shuffled, 42),
                       window_sampler(ranges_of({10}, {0.7}), 3, window_order::shuffled, 42)}) {
    numbers rows;
    for (const auto& [step, want] : shuffled) {
      sampler.rows_of(step, 0, 3, rows);
      BOOST_TEST(rows == want, boost::test_tools::per_element());
    }
    BOOST_TEST(sampler.steps_per_epoch() == 3);
    BOOST_TEST(sampler.reaches() == 10);
  }
  window_sampler sequential(10, 3, window_order::sequential, 42);
  numbers rows;
  sequential.rows_of(5, 1, 2, rows);
  BOOST_TEST(rows == (numbers{7, 8}), boost::test_tools::per_element());
  BOOST_TEST(sequential.reaches() == 9);
}

BOOST_AUTO_TEST_CASE(rows_of_a_mixture_are_shared_by_weight) {
  for (const auto& [windows, weights] :
       std::vector<std::pair<numbers, std::vector<double>>>{{{50, 40}, {0.7, 0.3}},
                                                            {{50, 40}, {1, 1}},
                                                            {{9, 40, 3}, {70, 29, 1}},
                                                            {{30, 7, 9, 11, 40}, {0.5, 0.2, 0.1, 0.1, 0.1}},
                                                            {{20, 20, 20}, {1e-3, 1, 1e3}}}) {
    const auto ranges = ranges_of(windows, weights);
    const std::size_t texts = ranges.size();
    const index a_step = 6, total = 6000;
    window_sampler sampler(ranges, a_step, window_order::sequential, 1);
    const auto rows = first_rows(sampler, total, a_step);
    // By definition: all places of all texts, sorted.
    std::vector<std::pair<double, std::size_t>> places;
    for (std::size_t k = 0; k < texts; ++k)
      for (index n = 0; n < total; ++n)
        places.emplace_back((static_cast<double>(n) + 0.5) / ranges[k].share, k);
    std::sort(places.begin(), places.end());
    numbers read(texts, 0);
    double worst = 0;
    for (index g = 0; g < total; ++g) {
      const std::size_t k = places[static_cast<std::size_t>(g)].second;
      BOOST_REQUIRE(rows[static_cast<std::size_t>(g)] == ranges[k].first + read[k]++ % ranges[k].count);
      for (std::size_t i = 0; i < texts; ++i) {
        const double limit = 0.5 + ranges[i].share * static_cast<double>(texts) / 2;
        worst = std::max(
            worst,
            std::abs(static_cast<double>(read[i]) - static_cast<double>(g + 1) * ranges[i].share) / limit);
      }
    }
    BOOST_TEST(worst <= 1 + 1e-9);
    BOOST_TEST(sampler.steps_per_epoch() == std::accumulate(windows.begin(), windows.end(), index{0}) / a_step);
    BOOST_TEST(sampler.reaches() == std::accumulate(windows.begin(), windows.end(), index{0}));
    // A function of the step: in any order, in parts.
    window_sampler other(ranges, a_step, window_order::sequential, 1);
    numbers part;
    for (const index s : {999, 3, 500, 3, 0}) {
      for (const index first : {4, 0}) {
        other.rows_of(s, first, first == 0 ? 4 : 2, part);
        BOOST_TEST(std::equal(part.begin(), part.end(), rows.begin() + s * a_step + first));
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(every_text_has_an_order_and_epochs_of_its_own) {
  const auto ranges = ranges_of({12, 5, 30}, {5, 4, 1});
  const auto rows = first_rows({ranges, 8, window_order::shuffled, 7}, 800, 8);
  for (std::size_t k = 0; k < 3; ++k) {
    const auto read = of_text(ranges, rows, k);
    const auto windows = static_cast<std::size_t>(ranges[k].count);
    BOOST_REQUIRE(read.size() >= 2 * windows);
    numbers all(windows), first(read.begin(), read.begin() + ranges[k].count),
        second(read.begin() + ranges[k].count, read.begin() + 2 * ranges[k].count);
    std::iota(all.begin(), all.end(), index{0});
    BOOST_TEST(first != second);
    for (numbers* epoch : {&first, &second}) {
      std::sort(epoch->begin(), epoch->end());
      BOOST_TEST(*epoch == all, boost::test_tools::per_element());
    }
  }
  // The first text's order is the one that it has alone, and the others' weights move nobody's order.
  const auto alone = first_rows({12, 12, window_order::shuffled, 7}, 24, 12);
  const auto mixed = of_text(ranges, rows, 0);
  BOOST_TEST(std::equal(alone.begin(), alone.end(), mixed.begin()));
  const auto even = ranges_of({12, 5, 30}, {1, 1, 1});
  const auto other = first_rows({even, 8, window_order::shuffled, 7}, 240, 8);
  for (std::size_t k = 0; k < 3; ++k) {
    const auto a = of_text(ranges, rows, k), b = of_text(even, other, k);
    BOOST_TEST(std::equal(a.begin(), a.begin() + std::min(std::ssize(a), std::ssize(b)), b.begin()));
  }
  BOOST_TEST(of_text(ranges, first_rows({ranges, 8, window_order::shuffled, 8}, 800, 8), 1) !=
             of_text(ranges, rows, 1));
  // Texts of one size are not read in one order.
  const auto two_equal_texts = ranges_of({30, 30}, {1, 1});
  const auto both = first_rows({two_equal_texts, 6, window_order::shuffled, 7}, 60, 6);
  BOOST_TEST(of_text(two_equal_texts, both, 0) != of_text(two_equal_texts, both, 1));
}

BOOST_AUTO_TEST_CASE(windows_of_a_mixture_are_those_of_its_texts) {
  const auto a = file_of(100, 1, {0, 13, 14, 40}), b = file_of(61, 2, {0, 30});
  token_text c;
  for (std::int32_t i = 0; i < 40; ++i) c.ids.push_back(i % 7);
  const index length = 9;
  const token_windows mixture({{&a, 0.5}, {&b, 0.3}, {&c, 0.2}}, length), one(a, length), two(b, length),
      three(c, length);
  BOOST_TEST(mixture.count() == one.count() + two.count() + three.count());
  BOOST_TEST(mixture.vocab_size() == 23);
  const index last = mixture.count() - 1;
  token_batch all, row;
  mixture.read({one.count(), 2, last, one.count() - 1, one.count() + two.count()}, all);
  const std::vector<std::pair<const token_windows*, index>> want = {
      {&two, 0}, {&one, 2}, {&three, three.count() - 1}, {&one, one.count() - 1}, {&three, 0}};
  index scored = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    want[i].first->read({want[i].second}, row);
    const auto same = [&](const auto& x, const auto& y) {
      return std::equal(y.begin(), y.end(), x.begin() + static_cast<std::ptrdiff_t>(i) * length);
    };
    BOOST_TEST((same(all.ids, row.ids) && same(all.targets, row.targets) && same(all.start, row.start) &&
                same(all.scored, row.scored)));
    scored += row.scored_tokens;
  }
  BOOST_TEST(all.scored_tokens == scored);
}

BOOST_AUTO_TEST_CASE(a_mixture_scores_where_one_of_its_texts_does) {
  std::vector<std::int64_t> single(60);
  std::iota(single.begin(), single.end(), 0);
  const auto nothing = file_of(60, 1, single), something = file_of(60, 2, {0});
  const token_windows mixture({{&nothing, 1.0}, {&something, 1.0}}, 9);
  BOOST_TEST(!mixture.scores(6));
  BOOST_TEST(mixture.scores(7));
  BOOST_TEST(!token_windows({{&nothing, 1.0}}, 9).scores(6));
}

BOOST_AUTO_TEST_CASE(what_makes_no_mixture_is_refused) {
  const auto a = file_of(100, 1, {0}), b = file_of(61, 2, {0}), wide = file_of(61, 2, {0}, 24),
             one = file_of(61, 2, {0}, 23, "one"), other = file_of(61, 2, {0}, 23, "other");
  const auto refused = [](std::vector<weighted_text> texts, index length, const std::string& why) {
    BOOST_CHECK_EXCEPTION(token_windows(std::move(texts), length), error, says(why));
  };
  for (const double weight : {0.0, -0.3, std::nan(""), std::numeric_limits<double>::infinity()})
    refused({{&a, 0.7}, {&b, weight}}, 9, "cannot have the weight");
  refused({{&a, 1e308}, {&b, 1e308}}, 9, "too large");
  refused({{&a, 1e-308}, {&b, 1e100}}, 9, "too far apart");
  refused({}, 9, "no text");
  refused({{&a, 1}, {&b, 1}}, 61, "has 61 tokens, too few for one window of 61");
  refused({{&a, 1}, {&wide, 1}}, 9, "made with a vocabulary of 24");
  refused({{&one, 1}, {&other, 1}}, 9, "made with another tokenizer");
  BOOST_TEST(token_windows({{&one, 1}, {&a, 1}}, 9).count() == 6 + 11);
  BOOST_CHECK_EXCEPTION(window_sampler(ranges_of({4, 5}, {1, 1}), 10, window_order::shuffled, 1), error,
                        says("the text has 9 windows, a step takes 10"));
}

BOOST_AUTO_TEST_CASE(unigram_counts_of_a_mixture_are_its_texts_by_share) {
  const auto a = file_of(100, 1, {0}), b = file_of(61, 2, {0}), text = file_of(50, 3, {0, 20});
  const auto probability = [](const io::token_file& of, std::int32_t id) {
    double n = 1;
    for (index i = 0; i < of.size(); ++i) n += of[i] == id;
    return n / static_cast<double>(of.size() + 23);
  };
  double nll = 0;
  for (index i = 1; i < 50; ++i)
    if (i % 16 != 0 && i != 20)
      nll -= std::log(0.75 * probability(a, text[i]) + 0.25 * probability(b, text[i]));
  const std::vector<weighted_text> mixture = {{&a, 3}, {&b, 1}};
  const auto score = score_unigram(mixture, text, 16);
  BOOST_TEST(std::abs(score.nll - nll) <= 1e-12 * nll);
  BOOST_TEST(score_unigram(std::vector<weighted_text>{{&a, 3}}, text, 16).nll ==
             score_unigram(a, text, 16).nll);
}

}  // namespace distil_xlstm
