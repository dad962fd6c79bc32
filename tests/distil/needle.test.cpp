#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <set>
#include <span>
#include <string>
#include <vector>

#include <distil_xlstm/device/cpu.hpp>
#include <distil_xlstm/distil/needle.hpp>
#include <distil_xlstm/io/tokenizer/byte_alphabet.hpp>

namespace distil_xlstm {
namespace {

using ids_type = std::vector<std::int32_t>;

/// A token a digit, or two for those from 5 on.
needle_text text_of(bool long_digits) {
  needle_text x;
  x.phrase = {1, 2, 3, 4};
  for (std::int32_t d = 0; d < 10; ++d) {
    auto& digit = x.digits[static_cast<std::size_t>(d)];
    if (long_digits && d >= 5) digit.push_back(20);
    digit.push_back(10 + d);
  }
  x.stop = {5, 6};
  return x;
}
/// Tokens that occur once each, so that places are seen.
ids_type filler_of(index n) {
  ids_type x;
  for (index i = 0; i < n; ++i) x.push_back(static_cast<std::int32_t>(100 + i));
  return x;
}

/// A case taken apart.
struct parts {
  ids_type before, number, between, asked;
  parts(const needle_text& text, const continuation& x) {
    auto take = [at = x.ids.begin(), end = x.ids.end()](const auto& wanted) mutable {
      ids_type taken;
      while (at != end && wanted(*at)) taken.push_back(*at++);
      return taken;
    };
    const auto filler = [](std::int32_t id) { return id >= 100; };
    const auto digit = [](std::int32_t id) { return id >= 10 && id <= 20; };
    const auto other = [](std::int32_t id) { return id < 10; };
    before = take(filler);
    BOOST_TEST((take(other) == text.phrase));
    number = take(digit);
    BOOST_TEST((take(other) == text.stop));
    between = take(filler);
    BOOST_TEST((take(other) == text.phrase));
    asked = take(digit);
    BOOST_TEST(take([](std::int32_t) { return true; }).empty());
    BOOST_TEST((asked == number));
    BOOST_TEST((ids_type(x.ids.begin() + x.context, x.ids.end()) == number));
  }
};

auto says(const std::string& part) {
  return [=](const error& e) {
    BOOST_TEST_MESSAGE(e.what());
    return std::string(e.what()).find(part) != std::string::npos;
  };
}

}  // namespace

BOOST_AUTO_TEST_CASE(cases_have_their_length_and_their_places) {
  for (const bool long_digits : {false, true}) {
    const auto text = text_of(long_digits);
    // Twice the phrase and the number, the stop, 8 tokens before and 100 between.
    const index least = 2 * (4 + 7 * (long_digits ? 2 : 1)) + 2 + 108;
    BOOST_TEST(text.least_length() == least);
    for (const index length : {least, least + 1, index{256}, index{1000}}) {
      const auto filler = filler_of(length + 50);
      const auto cases = needle_cases(text, filler, length, 400, 3);
      std::set<std::size_t> places;
      std::set<std::int32_t> begins, digits;
      BOOST_TEST(cases.size() == 400u);
      for (const auto& x : cases) {
        BOOST_TEST(std::ssize(x.ids) == length);
        const parts p(text, x);
        BOOST_TEST(std::count_if(p.number.begin(), p.number.end(), [](auto id) { return id < 20; }) == 7);
        BOOST_TEST(p.before.size() >= 8u);
        BOOST_TEST(p.between.size() >= 100u);
        // One piece of the filler.
        auto piece = p.before;
        piece.insert(piece.end(), p.between.begin(), p.between.end());
        for (std::size_t i = 1; i < piece.size(); ++i) BOOST_TEST(piece[i] == piece[i - 1] + 1);
        BOOST_TEST(piece.back() <= filler.back());
        places.insert(p.before.size()), begins.insert(piece.front());
        digits.insert(p.number.begin(), p.number.end());
      }
      BOOST_TEST(digits.size() == (long_digits ? 11u : 10u));
      BOOST_TEST(begins.size() > 30u);
      const index slack = length - least;
      if (!long_digits && slack <= 1) BOOST_TEST(std::ssize(places) == slack + 1);
      if (length == 1000) {
        BOOST_TEST(places.size() > 200u);
        BOOST_TEST(std::ssize(places) <= slack + 1 + (long_digits ? 14 : 0));
        BOOST_TEST(*places.begin() < 8u + static_cast<std::size_t>(slack) / 10);
        BOOST_TEST(*places.rbegin() > 8u + static_cast<std::size_t>(slack) * 9 / 10);
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(a_seed_repeats_them) {
  const auto text = text_of(true);
  const auto filler = filler_of(3000);
  const auto ids = [&](index length, index cases, std::uint64_t seed) {
    std::vector<ids_type> out;
    for (const auto& x : needle_cases(text, filler, length, cases, seed)) out.push_back(x.ids);
    return out;
  };
  const auto some = ids(300, 20, 7);
  BOOST_TEST((ids(300, 20, 7) == some));
  BOOST_TEST((ids(300, 20, 8) != some));
  auto more = ids(300, 30, 7);
  more.resize(20);
  BOOST_TEST((more == some));
  // Numbers do not hang on the length.
  const auto near = needle_cases(text, filler, 300, 20, 7), far = needle_cases(text, filler, 2000, 20, 7);
  for (std::size_t i = 0; i < 20; ++i)
    BOOST_TEST(parts(text, near[i]).number == parts(text, far[i]).number, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(what_cannot_be_made_is_refused) {
  const auto text = text_of(false);
  const auto filler = filler_of(400);
  const auto with = [&](const needle_text& t, std::span<const std::int32_t> from, index length, index cases) {
    return needle_cases(t, from, length, cases, 1);
  };
  BOOST_CHECK_EXCEPTION(with(text, filler, 131, 1), error, says("131 tokens has no room"));
  BOOST_CHECK_EXCEPTION(with(text, filler, 131, 1), error, says("132 is the least"));
  BOOST_CHECK_EXCEPTION(with(text, filler, -5, 1), error, says("132 is the least"));
  BOOST_TEST(with(text, filler, 132, 1).size() == 1u);
  // 24 of the tokens are no filler.
  BOOST_CHECK_EXCEPTION(with(text, filler, 425, 1), error,
                        says("425 tokens need 401 tokens of filler, there are 400"));
  BOOST_TEST(with(text, filler, 424, 1).size() == 1u);
  BOOST_CHECK_EXCEPTION(with(text, {}, 200, 1), error, says("there are 0"));
  BOOST_CHECK_EXCEPTION(with(text, filler, 200, 0), error, says("0 are none"));
  auto bad = text;
  bad.digits[3].clear();
  BOOST_CHECK_EXCEPTION(with(bad, filler, 200, 1), error, says("the digit 3 has no token"));
  bad.digits[3] = bad.digits[1];
  BOOST_CHECK_EXCEPTION(with(bad, filler, 200, 1), error, says("the digits 1 and 3 are the same"));
  BOOST_CHECK_EXCEPTION(score_needle({}), error, says("of 0 needle cases"));
}

BOOST_AUTO_TEST_CASE(the_sentence_in_a_vocabulary) {
  io::tokenizer_data d;
  for (unsigned b = 0; b < 256; ++b)
    d.tokens.push_back(io::detail::alphabet_character(static_cast<unsigned char>(b)));
  d.merges = {{"t", "h"}, {"th", "e"}};
  d.tokens.insert(d.tokens.end(), {"th", "the"});
  const io::tokenizer t(d);
  const auto x = tokenize_needle(t);
  BOOST_TEST(x.phrase == t.encode("\nThe secret number of the castle is ").ids,
             boost::test_tools::per_element());
  BOOST_TEST(x.stop == (ids_type{'.', '\n'}), boost::test_tools::per_element());
  for (std::int32_t i = 0; i < 10; ++i)
    BOOST_TEST(x.digits[static_cast<std::size_t>(i)] == ids_type{'0' + i}, boost::test_tools::per_element());
  d.name = "poor.json";
  d.tokens['7'].clear();
  BOOST_CHECK_EXCEPTION(tokenize_needle(io::tokenizer(d)), error, says("poor.json: '7'"));
}

BOOST_AUTO_TEST_CASE(scores_are_shares_and_nats) {
  const std::vector<continuation_score> scores = {{-1.0, 7, 7}, {-6.0, 9, 5}, {-2.0, 8, 8}, {-3.0, 7, 0}};
  const auto s = score_needle(scores);
  BOOST_TEST(s.number == 0.5);
  BOOST_TEST(s.digit == 20.0 / 31.0);
  BOOST_TEST(s.nll == 12.0 / 31.0);
}

// A model that looks back `reach` tokens for what it has read since the phrase began, and says what came then, or
// token 0: it knows the number where the sentence is in reach.
BOOST_AUTO_TEST_CASE(a_model_that_copies_finds_what_it_reaches) {
  using T = double;
  constexpr index vocabulary = 400, length = 256;
  constexpr T certain = 9;
  device::cpu cpu(1);
  std::vector<T> identity(vocabulary * vocabulary, 0);
  for (index i = 0; i < vocabulary; ++i) identity[static_cast<std::size_t>(i * vocabulary + i)] = 1;
  const frozen_matrix head{identity.data(), dtype::f64, vocabulary, vocabulary};
  const double hit = std::log1p((vocabulary - 1) * std::exp(-certain)), miss = hit + certain;

  for (const bool long_digits : {false, true}) {
    const auto text = text_of(long_digits);
    const auto cases = needle_cases(text, filler_of(300), length, 30, 5);
    for (const index reach : {index{0}, index{170}, length}) {
      const auto read = [&](sequence_view seq, const std::int32_t* ids, matrix_view<T> hidden) {
        std::fill_n(hidden.data, hidden.size(), T(0));
        for (index b = 0; b < seq.batch; ++b)
          for (index t = 0; t < seq.time; ++t) {
            const std::int32_t* x = ids + b * seq.time;
            std::int32_t next = 0;
            for (index back = 1; back <= std::min(reach, t); ++back) {
              bool phrase = false;
              for (index i = t; i - back >= 0 && x[i] == x[i - back]; --i) phrase |= x[i] == text.phrase[0];
              if (phrase) next = x[t - back + 1];
            }
            hidden.row(b * seq.time + t)[next] = certain;
          }
      };
      index batches = 0;
      const auto scores = score_continuations<T>(cpu, cases, head, 8, read, [&](index, index) { ++batches; });
      BOOST_TEST(batches == 4);
      const auto s = score_needle(scores);
      double found = 0, tokens = 0, found_tokens = 0;
      for (const auto& x : cases) {
        const parts p(text, x);
        const index distance =
            std::ssize(p.number) + std::ssize(text.stop) + std::ssize(p.between) + std::ssize(text.phrase);
        const auto n = static_cast<double>(p.number.size());
        found += distance <= reach, found_tokens += distance <= reach ? n : 0, tokens += n;
      }
      if (reach == 0) BOOST_TEST(found == 0);
      if (reach == 170) BOOST_TEST((found > 2 && found < 28));
      if (reach == length) BOOST_TEST(found == 30);
      BOOST_TEST(s.number == found / 30);
      BOOST_TEST(s.digit == found_tokens / tokens);
      BOOST_TEST(s.nll == (found_tokens * hit + (tokens - found_tokens) * miss) / tokens,
                 boost::test_tools::tolerance(1e-12));
    }
  }
}

}  // namespace distil_xlstm
