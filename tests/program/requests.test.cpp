#define BOOST_TEST_MODULE program_requests
#include <zlib.h>

#include <boost/test/unit_test.hpp>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "distil/requests.hpp"

namespace {

struct folder {
  std::filesystem::path path =
      std::filesystem::temp_directory_path() / ("requests-test-" + std::to_string(::getpid()));
  folder() { std::filesystem::create_directories(path); }
  ~folder() { std::filesystem::remove_all(path); }

  std::filesystem::path plain(const std::string& name, const std::string& text) const {
    std::ofstream(path / name, std::ios::binary) << text;
    return path / name;
  }
  std::filesystem::path gz(const std::string& name, const std::string& text) const {
    const auto at = path / name;
    gzFile f = gzopen(at.c_str(), "wb");
    BOOST_REQUIRE(gzwrite(f, text.data(), static_cast<unsigned>(text.size())) == static_cast<int>(text.size()));
    BOOST_REQUIRE(gzclose(f) == Z_OK);
    return at;
  }
};

std::vector<std::string> lines_of(const std::filesystem::path& path, std::size_t longest = 1000) {
  program::gzip_line_reader reader(path, longest);
  std::vector<std::string> lines;
  for (std::string line; reader.next(line);) lines.push_back(line);
  return lines;
}

std::string line(int doc, int idx, const std::string& label, const std::string& context,
                 const std::string& continuation) {
  return R"({"request_type": "loglikelihood", "doc": {"q": "x"}, "request": {"context": ")" + context +
         R"(", "continuation": ")" + continuation + R"("}, "idx": )" + std::to_string(idx) +
         R"(, "task_name": "t", "doc_id": )" + std::to_string(doc) + R"(, "label": )" + label + "}\n";
}

template <class Body>
void check_fails(Body body, const std::string& wanted) {
  try {
    body();
    BOOST_ERROR("no error where one with \"" << wanted << "\" was due");
  } catch (const distil_xlstm::error& e) {
    BOOST_TEST(std::string(e.what()).find(wanted) != std::string::npos, e.what() << " / " << wanted);
  }
}

program::request_file parse(const std::string& text, distil_xlstm::index limit = 1000) {
  program::request_parser parser("r.jsonl", limit);
  std::size_t at = 0;
  while (at < text.size()) {
    const auto end = text.find('\n', at);
    if (!parser.add(std::string_view(text).substr(at, end - at))) break;
    at = end + 1;
  }
  return parser.finish();
}

}  // namespace

BOOST_AUTO_TEST_CASE(lines_of_plain_and_compressed_files) {
  const folder f;
  const std::string text = "one\r\n\ntwo\nlast without end";
  const std::vector<std::string> wanted{"one", "", "two", "last without end"};
  BOOST_TEST(lines_of(f.plain("a.txt", text)) == wanted);
  BOOST_TEST(lines_of(f.gz("a.gz", text)) == wanted);
  BOOST_TEST(lines_of(f.gz("a.txt", text)) == wanted);
  BOOST_TEST(lines_of(f.plain("empty.txt", "")).empty());
  BOOST_TEST(lines_of(f.gz("empty.gz", "")).empty());
  // Lines across the reader's buffer.
  std::string big;
  for (int i = 0; i < 40; ++i) big += std::string(9973, static_cast<char>('a' + i % 26)) + "\n";
  const auto lines = lines_of(f.gz("big.gz", big), 9973);
  BOOST_TEST(lines.size() == 40u);
  for (const auto& l : lines) BOOST_TEST(l.size() == 9973u);
}

BOOST_AUTO_TEST_CASE(damaged_files_are_errors_that_name_the_file) {
  const folder f;
  check_fails([&] { lines_of(f.path / "none.gz"); }, "none.gz: cannot be opened: No such file");
  check_fails([&] { lines_of(f.path); }, "is a folder");
  check_fails([&] { lines_of(f.plain("fake.gz", "plain text\n")); }, "fake.gz: is not a gzip file");
  check_fails([&] { lines_of(f.plain("none.gz", "")); }, "none.gz: is not a gzip file");
  check_fails([&] { lines_of(f.plain("long.txt", "ab\n" + std::string(1001, 'x') + "\n")); },
              "long.txt:2: line of more than 1000 bytes");

  std::string text;
  for (int i = 0; i < 3000; ++i) text += std::to_string(i * 7919 % 10007) + "\n";
  const auto whole = f.gz("whole.gz", text);
  std::ifstream in(whole, std::ios::binary);
  const std::string bytes(std::istreambuf_iterator<char>(in), {});
  for (const std::size_t n : {std::size_t{3}, std::size_t{12}, bytes.size() / 2, bytes.size() - 1})
    check_fails([&] { lines_of(f.plain("cut.gz", bytes.substr(0, n))); }, "cut.gz: cannot be read");
  std::string wrong = bytes;
  wrong[wrong.size() - 6] = static_cast<char>(wrong[wrong.size() - 6] ^ 1);  // its check sum
  check_fails([&] { lines_of(f.plain("wrong.gz", wrong)); }, "wrong.gz: cannot be read");
}

BOOST_AUTO_TEST_CASE(multiple_choice_documents) {
  const folder f;
  const std::string text = line(3, 0, "1", "Q", " a") + line(3, 1, "1", "Q", " b") +
                           line(3, 2, "1", "Q", " c") + line(1000003, 0, "1", "Answer:", " a") +
                           line(1000003, 1, "1", "Answer:", " b") + line(4, 0, "0", "He went", " on.") +
                           line(4, 1, "0", "She went", " on.");
  const auto read = program::read_requests(f.gz("requests.jsonl.gz", text));
  BOOST_TEST((read.kind == program::task_kind::multiple_choice));
  BOOST_REQUIRE(read.documents.size() == 2u);
  BOOST_TEST(read.documents[0].doc_id == 3);
  BOOST_TEST(read.documents[0].label == 1);
  BOOST_TEST(read.documents[0].requests.size() == 3u);
  BOOST_TEST(read.documents[0].requests[2].continuation == " c");
  BOOST_TEST(read.documents[1].requests[0].context == "He went");
  BOOST_TEST(read.documents[1].requests[1].context == "She went");

  const auto first = program::read_requests(f.path / "requests.jsonl.gz", 1);
  BOOST_REQUIRE(first.documents.size() == 1u);
  BOOST_TEST(first.documents[0].requests.size() == 3u);
}

BOOST_AUTO_TEST_CASE(cloze_documents) {
  const auto read = parse(line(0, 0, "[\"signs\"]", "I don't care about", " signs") + "\n" +
                          line(1, 0, "[\"Shane\"]", "\\u201cNo\\u201d, said", " Shane"));
  BOOST_TEST((read.kind == program::task_kind::cloze));
  BOOST_REQUIRE(read.documents.size() == 2u);
  BOOST_TEST(read.documents[1].label == 0);
  BOOST_TEST(read.documents[1].requests[0].context == "\xe2\x80\x9cNo\xe2\x80\x9d, said");
}

BOOST_AUTO_TEST_CASE(errors_name_source_and_line) {
  const auto good = line(0, 0, "1", "Q", " a") + line(0, 1, "1", "Q", " b");
  check_fails([&] { parse(good + "{\"doc_id\": 1,\n"); }, "r.jsonl:3: not valid JSON");
  check_fails([&] { parse(good + "[]\n"); }, "r.jsonl:3: ");
  check_fails([&] { parse(good + "{}\n"); }, "r.jsonl:3: doc_id is missing");
  check_fails([&] { parse(good + "{\"doc_id\": 1.5}\n"); }, "r.jsonl:3: doc_id must be an integer");
  check_fails([&] { parse(good + "{\"doc_id\": 18446744073709551615}\n"); }, "r.jsonl:3: doc_id must be");
  check_fails([&] { parse(line(-1, 0, "0", "Q", " a")); }, "r.jsonl:1: doc_id -1 is negative");
  check_fails([&] { parse(good + line(1, 1, "0", "Q", " a")); },
              "r.jsonl:3: document 1: idx 1 where 0 was due");
  check_fails([&] { parse(good + line(0, 1, "1", "Q", " a")); },
              "r.jsonl:3: document 0: idx 1 where 2 was due");
  check_fails([&] { parse(good + line(0, 2, "0", "Q", " a")); }, "r.jsonl:3: document 0: label differs");
  check_fails([&] { parse(line(0, 0, "0", "Q", "")); }, "r.jsonl:1: document 0: empty continuation");
  check_fails([&] { parse(line(0, 0, "2", "Q", " a") + line(0, 1, "2", "Q", " b")); }, "label 2 of 2 requests");
  check_fails([&] { parse(line(0, 0, "\"a\"", "Q", " a") + line(0, 1, "\"a\"", "Q", " b")); },
              "document 0 has no whole number as its label");
  check_fails([&] { parse(good + line(1, 0, "0", "Q", " a")); }, "cloze and multiple choice are not mixed");
  check_fails([&] { parse(good + line(1, 0, "1", "Q", " a") + line(1, 1, "1", "Q", " b") + good); },
              "r.jsonl:5: document 0 appears again");
  check_fails([&] { parse("\n"); }, "r.jsonl: holds no request");
  check_fails([&] { program::request_parser("r.jsonl", 0); }, "limit of 0 documents");
}

BOOST_AUTO_TEST_CASE(characters_of_a_continuation) {
  BOOST_TEST(program::count_characters(" abc") == 3);
  BOOST_TEST(program::count_characters("abc") == 3);
  BOOST_TEST(program::count_characters("  abc") == 4);
  BOOST_TEST(program::count_characters(" caf\xc3\xa9 \xf0\x9f\x98\x80") == 6);
  BOOST_TEST(program::count_characters(" ") == 1);
}

BOOST_AUTO_TEST_CASE(multiple_choice_scores) {
  std::vector<program::document> documents{{0, 1, {{"Q", " a"}, {"Q", " bbbb"}}},
                                           {1, 0, {{"Q", " a"}, {"Q", " b"}, {"Q", " c"}}},
                                           {2, 1, {{"Q", " a"}, {"Q", " b"}}}};
  // Document 0: the sum picks 0 (wrong), per character picks 1 (right). Document 1: both right. Document 2:
  // equal scores pick the first, which is wrong.
  const std::vector<program::request_score> scores{{-3, false, 1}, {-4, true, 4},  {-1, false, 1},
                                                   {-2, false, 1}, {-9, false, 1}, {-2, false, 1},
                                                   {-2, false, 1}};
  const auto r = program::score_multiple_choice(documents, scores);
  BOOST_TEST(r.documents == 3);
  BOOST_TEST(r.acc == 1.0 / 3);
  BOOST_TEST(r.acc_norm == 2.0 / 3);

  auto few = scores;
  few.pop_back();
  check_fails([&] { program::score_multiple_choice(documents, few); }, "6 scores for 7 requests");
  auto bad = scores;
  bad[4].sum_logprob = std::nan("");
  check_fails([&] { program::score_multiple_choice(documents, bad); },
              "document 1: log-probability of request 2");
  check_fails([&] { program::score_multiple_choice({}, {}); }, "0 scores for 0 requests");
}

BOOST_AUTO_TEST_CASE(cloze_scores) {
  const std::vector<program::document> documents{{0, 0, {{"Q", " a"}}}, {1, 0, {{"Q", " b"}}}};
  const std::vector<program::request_score> scores{{std::log(0.5), true, 1}, {std::log(0.02), false, 1}};
  const auto r = program::score_cloze(documents, scores);
  BOOST_TEST(r.documents == 2);
  BOOST_TEST(r.acc == 0.5);
  BOOST_TEST(r.ppl == 10.0, boost::test_tools::tolerance(1e-12));  // 1 / sqrt(0.5 * 0.02)
}
