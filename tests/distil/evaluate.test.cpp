#include <boost/test/unit_test.hpp>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include <distil_xlstm/distil/evaluate.hpp>
#include <distil_xlstm/distil/perplexity.hpp>
#include <distil_xlstm/io/tokenizer/byte_alphabet.hpp>

namespace distil_xlstm {
namespace {

using ids_type = std::vector<std::int32_t>;

/// Token b for each byte b, then what is merged, then what begins and ends texts.
enum : std::int32_t { th = 256, the, in, ing, begin, end, blank_the };

io::tokenizer_data words(bool with_bos, bool adds_bos) {
  io::tokenizer_data d;
  for (unsigned b = 0; b < 256; ++b)
    d.tokens.push_back(io::detail::alphabet_character(static_cast<unsigned char>(b)));
  const std::string blank = io::detail::alphabet_character(' ');
  d.merges = {{"t", "h"}, {"th", "e"}, {"i", "n"}, {"in", "g"}, {blank, "the"}};
  for (const char* t : {"th", "the", "in", "ing", "<begin>", "<end>"}) d.tokens.push_back(t);
  d.tokens.push_back(blank + "the");
  d.specials = {{begin, "<begin>"}, {end, "<end>"}};
  d.bos = with_bos ? begin : -1;
  d.eos = end;
  d.add_bos = adds_bos;
  return d;
}

struct expected {
  std::string context, continuation;
  ids_type before, scored;
};

void compare(const io::tokenizer& t, const std::vector<expected>& cases) {
  for (const auto& e : cases) {
    const auto x = tokenize_continuation(t, e.context, e.continuation);
    BOOST_TEST_CONTEXT("'" << e.context << "' + '" << e.continuation << "'") {
      BOOST_TEST(ids_type(x.ids.begin(), x.ids.begin() + x.context) == e.before,
                 boost::test_tools::per_element());
      BOOST_TEST(ids_type(x.ids.begin() + x.context, x.ids.end()) == e.scored,
                 boost::test_tools::per_element());
      BOOST_TEST(x.cut == 0);
    }
  }
}

auto says(const std::string& part) {
  return [=](const error& e) { return std::string(e.what()).find(part) != std::string::npos; };
}

}  // namespace

BOOST_AUTO_TEST_CASE(white_space_belongs_to_the_continuation) {
  const io::tokenizer t(words(false, false));
  compare(t, {{"a", " the", {'a'}, {blank_the}},
              {"a ", "the", {'a'}, {blank_the}},
              {"a  ", "the", {'a'}, {' ', blank_the}},
              {"a ", " the", {'a'}, {' ', blank_the}},
              {"a\n", "the", {'a'}, {'\n', the}},
              {"a \t\r\n", "b", {'a'}, {' ', '\t', '\r', '\n', 'b'}},
              {"a\xc2\xa0", "b", {'a'}, {0xc2, 0xa0, 'b'}},            // no-break space
              {"a\xe3\x80\x80", "b", {'a'}, {0xe3, 0x80, 0x80, 'b'}},  // ideographic space
              {"a\xe2\x80\x8b", "b", {'a', 0xe2, 0x80, 0x8b}, {'b'}},  // zero width space: a format character
              {"a\x1c", "b", {'a'}, {0x1c, 'b'}},
              {"a", "\n", {'a'}, {'\n'}}});
}

BOOST_AUTO_TEST_CASE(a_continuation_that_merges_into_its_context) {
  const io::tokenizer t(words(false, false));
  // Of "the end" as many tokens are the context's as "th" has; the model reads "th", though.
  compare(t, {{"th", "e end", {th}, {' ', 'e', 'n', 'd'}},
              {"xi", "ng!", {'x', 'i'}, {'!'}},
              {"t", "hat", {'t'}, {'a', 't'}}});
  BOOST_CHECK_EXCEPTION(tokenize_continuation(t, "th", "e"), error, says("'e' adds no token to its context"));
  BOOST_CHECK_EXCEPTION(tokenize_continuation(t, "xi", "ng"), error, says("'ng' adds no token"));
  BOOST_CHECK_EXCEPTION(tokenize_continuation(t, "a", ""), error, says("the continuation is empty"));
  BOOST_CHECK_EXCEPTION(tokenize_continuation(t, "a ", ""), error, says("the continuation is empty"));
  BOOST_CHECK_EXCEPTION(tokenize_continuation(t, "a\xff", "b"), error, says("not valid UTF-8 at byte 1"));
}

BOOST_AUTO_TEST_CASE(an_empty_context_is_the_token_that_begins_a_text) {
  for (const bool adds : {false, true}) {
    const io::tokenizer t(words(true, adds));
    compare(t, {{"", "the", {begin}, {the}},
                {"", " the", {begin}, {blank_the}},
                {"", "<begin>the", {begin}, {the}},
                {" \n", "the", {begin}, {' ', '\n', the}}});
    BOOST_CHECK_EXCEPTION(tokenize_continuation(t, "", "<begin>"), error, says("adds no token"));
  }
  compare(io::tokenizer(words(false, false)), {{"", "the", {end}, {the}}, {"", "<end>a", {end}, {'a'}}});
  auto none = words(false, false);
  none.eos = -1;
  BOOST_CHECK_EXCEPTION(tokenize_continuation(io::tokenizer(none), "", "a"), error,
                        says("no token that begins a text"));
}

BOOST_AUTO_TEST_CASE(a_tokenizer_that_begins_texts_with_a_token) {
  compare(io::tokenizer(words(true, true)), {{"a ", "the", {begin, 'a'}, {blank_the}},
                                             {"<begin>a", "b", {begin, 'a'}, {'b'}},
                                             {"th", "e end", {begin, th}, {' ', 'e', 'n', 'd'}}});
  compare(io::tokenizer(words(true, false)), {{"a ", "the", {'a'}, {blank_the}}});
}

BOOST_AUTO_TEST_CASE(a_context_longer_than_the_model_reads) {
  const io::tokenizer t(words(true, true));
  const auto whole =
      tokenize_continuation(t, "abcdef", "xy");  // begin, six, two: the model reads eight of nine
  for (index longest = 2; longest < 12; ++longest) {
    const auto x = tokenize_continuation(t, "abcdef", "xy", longest);
    const index left = std::min<index>(9, longest + 1);
    BOOST_TEST(x.ids == ids_type(whole.ids.end() - left, whole.ids.end()), boost::test_tools::per_element());
    BOOST_TEST(x.cut == 9 - left);
    BOOST_TEST(std::ssize(x.ids) - x.context == 2);
  }
  BOOST_CHECK_EXCEPTION(tokenize_continuation(t, "abcdef", "xy", 1), error,
                        says("'xy' has 2 tokens, the model's context 1"));
}

BOOST_AUTO_TEST_CASE(nothing_scored_is_no_perplexity) {
  BOOST_CHECK_EXCEPTION((text_score{.tokens = 5}.perplexity()), error, says("of 5 tokens none is scored"));
  BOOST_TEST((text_score{2, 1, 0.0}.perplexity()) == 1.0);
}

}  // namespace distil_xlstm
