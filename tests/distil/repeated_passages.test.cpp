#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include <distil_xlstm/distil/repeated_passages.hpp>
#include <distil_xlstm/distil/token_text.hpp>

#include "../refused.hpp"

namespace distil_xlstm {
namespace {

constexpr std::int32_t end_of_text = 0;

/// Documents of 100 tokens, no two of all alike but for the ends.
token_text numbered(index documents) {
  token_text out;
  for (index d = 0; d < documents; ++d) {
    std::vector<std::int32_t> ids(100, end_of_text);
    for (index i = 0; i + 1 < 100; ++i)
      ids[static_cast<std::size_t>(i)] = static_cast<std::int32_t>(100 * d + i + 1);
    out.append(ids);
  }
  return out;
}

}  // namespace

BOOST_AUTO_TEST_CASE(documents_are_whole_passages_and_passages_come_back) {
  const auto text = numbered(300);
  const index documents = 40, length = 512;
  const auto made = repeated_passages(text, documents, length, 7);
  BOOST_REQUIRE(made.size() == documents * length);
  BOOST_REQUIRE(std::ssize(made.documents) == documents);
  index again = 0, joints = 0, shortest = length, longest = 0;
  for (index d = 0; d < documents; ++d) {
    BOOST_REQUIRE(made.documents[static_cast<std::size_t>(d)] == d * length);
    // The first token of a document of the text, whose numbers are 1 more than a multiple of 100.
    BOOST_TEST(made[d * length] % 100 == 1);
    std::set<std::int32_t> seen;
    index passage = 0;
    for (index i = d * length; i < (d + 1) * length; ++i) {
      BOOST_REQUIRE(made[i] != end_of_text);
      again += !seen.insert(made[i]).second;
      ++passage;
      if (i + 1 == (d + 1) * length) break;  // the last one is cut
      if (made[i + 1] == made[i] + 1) continue;
      ++joints, shortest = std::min(shortest, passage), longest = std::max(longest, passage), passage = 0;
    }
  }
  // About half of the passages are new, and few of those overlap.
  const double share = static_cast<double>(again) / static_cast<double>(made.size());
  BOOST_TEST((share > 0.35 && share < 0.65), share);
  BOOST_TEST(joints > 10 * documents);
  BOOST_TEST(longest > 64);
  BOOST_TEST(shortest < 16);
}

BOOST_AUTO_TEST_CASE(a_function_of_its_seed) {
  const auto text = numbered(30);
  const auto one = repeated_passages(text, 4, 64, 1);
  BOOST_TEST(one.ids == repeated_passages(text, 4, 64, 1).ids, boost::test_tools::per_element());
  BOOST_TEST((one.ids != repeated_passages(text, 4, 64, 2).ids));
}

BOOST_AUTO_TEST_CASE(texts_too_short_for_a_passage) {
  token_text single{.ids = {5}};
  BOOST_TEST(repeated_passages(single, 2, 3, 1).ids == std::vector<std::int32_t>(6, 5),
             boost::test_tools::per_element());
  token_text ends;  // documents that are an end alone
  for (int d = 0; d < 9; ++d) ends.append(std::vector<std::int32_t>{end_of_text});
  BOOST_TEST(repeated_passages(ends, 1, 50, 1).size() == 50);
}

BOOST_AUTO_TEST_CASE(what_is_refused) {
  const auto text = numbered(2);
  refused([&] { repeated_passages(token_text{}, 1, 8, 1); }, "the text is empty");
  refused([&] { repeated_passages(text, 0, 8, 1); }, "0 documents of 8 tokens are not possible");
  refused([&] { repeated_passages(text, 3, 0, 1); }, "3 documents of 0 tokens are not possible");
}

}  // namespace distil_xlstm
