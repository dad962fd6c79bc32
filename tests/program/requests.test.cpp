#include <zlib.h>

#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "../refused.hpp"
#include "../temporary_folder.hpp"
#include "distil/requests.hpp"

namespace {

using distil_xlstm::refused;

struct folder : distil_xlstm::temporary_folder {
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

program::request_file parse(const std::string& text, distil_xlstm::index limit = 1000) {
  program::request_parser parser("r.jsonl", limit);
  std::size_t at = 0;
  while (at < text.size()) {
    const auto end = std::min(text.find('\n', at), text.size());
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
  refused([&] { lines_of(f.path / "none.gz"); }, "none.gz: cannot be opened: No such file");
  refused([&] { lines_of(f.path); }, "is a folder");
  refused([&] { lines_of(f.plain("fake.gz", "plain text\n")); }, "fake.gz: is not a gzip file");
  refused([&] { lines_of(f.plain("none.gz", "")); }, "none.gz: is not a gzip file");
  refused([&] { lines_of(f.plain("long.txt", "ab\n" + std::string(1001, 'x') + "\n")); },
          "long.txt:2: line of more than 1000 bytes");

  std::string text;
  for (int i = 0; i < 3000; ++i) text += std::to_string(i * 7919 % 10007) + "\n";
  const auto whole = f.gz("whole.gz", text);
  std::ifstream in(whole, std::ios::binary);
  const std::string bytes(std::istreambuf_iterator<char>(in), {});
  for (const std::size_t n : {std::size_t{3}, std::size_t{12}, bytes.size() / 2, bytes.size() - 1})
    refused([&] { lines_of(f.plain("cut.gz", bytes.substr(0, n))); }, "cut.gz: cannot be read");
  std::string wrong = bytes;
  wrong[wrong.size() - 6] = static_cast<char>(wrong[wrong.size() - 6] ^ 1);  // its check sum
  refused([&] { lines_of(f.plain("wrong.gz", wrong)); }, "wrong.gz: cannot be read");
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

BOOST_AUTO_TEST_CASE(a_bad_line_is_named_and_counted) {
  const auto good = line(0, 0, "1", "Q", " a") + line(0, 1, "1", "Q", " b");
  // What is bad, how many documents it leaves out, and what is said of it; the document before is scored.
  const auto bad = [&](const std::string& text, std::size_t count, std::size_t left_out,
                       const std::string& wanted) {
    const auto read = parse(good + text);
    BOOST_TEST_CONTEXT(text) {
      BOOST_REQUIRE(read.bad.size() == count);
      BOOST_TEST(read.bad[0].why.find(wanted) != std::string::npos, read.bad[0].why);
      BOOST_TEST(read.bad[0].line == 3);
      BOOST_TEST(read.left_out == static_cast<distil_xlstm::index>(left_out));
      BOOST_REQUIRE(!read.documents.empty());
      BOOST_TEST(read.documents[0].doc_id == 0);
      BOOST_TEST(read.documents[0].requests.size() == 2u);
    }
  };
  const auto other = [](int doc) { return line(doc, 0, "1", "Q", " a") + line(doc, 1, "1", "Q", " b"); };
  bad(line(1, 1, "0", "Q", " a"), 1, 1, "r.jsonl:3: document 1: idx 1 where 0 was due");
  bad(line(0, 1, "1", "Q", " a"), 1, 0, "r.jsonl:3: document 0: idx 1 is given again");
  bad(line(1, 0, "0", "Q", "") + line(1, 1, "0", "Q", " b"), 1, 1, "r.jsonl:3: document 1: empty continuation");
  bad(line(1, 0, "2", "Q", " a") + line(1, 1, "2", "Q", " b"), 1, 1,
      "r.jsonl:3: document 1: label 2 of 2 requests");
  bad(line(1, 0, "\"a\"", "Q", " a") + line(1, 1, "\"a\"", "Q", " b"), 1, 1,
      "document 1 has no whole number as its label");
  bad(R"({"doc_id": 1, "idx": 0, "label": 1, "request": {"context": "Q", "continuation": 5}})"
      "\n" +
          line(1, 1, "1", "Q", " b"),
      1, 1, "r.jsonl:3: continuation must be a string");
  bad(R"({"doc_id": 1, "idx": 0, "label": 1, "request": {"context": "Q"}})"
      "\n" +
          other(2),
      1, 1, "continuation is missing");
  bad(R"({"doc_id": 1, "idx": 1e9, "label": 1})"
      "\n" +
          other(2),
      1, 1, "idx must be an integer");
  bad(R"({"doc_id": 1, "idx": 9223372036854775807, "label": 1})"
      "\n" +
          other(2),
      1, 1, "idx must be an integer in range");
  bad(line(1, -1, "1", "Q", " a") + other(2), 1, 1, "idx -1 where 0 was due");
  // Lines that nobody can read belong to the document whose idx they explain.
  for (const std::string stray : {"{\"doc_id\": 1,", "[]", "{}", "{\"doc_id\": 1.5}", "\xff", "3",
                                  "{\"doc_id\": 18446744073709551615}", "{\"doc_id\": -1}"}) {
    bad(stray + "\n" + line(1, 1, "1", "Q", " b") + other(2), 1, 1, "r.jsonl:3: ");
    // or else to the one before, which may have lost its last answer: that is left out, too.
    const auto read = parse(good + other(1) + stray + "\n" + other(2));
    BOOST_TEST(read.bad.size() == 1u);
    BOOST_TEST(read.left_out == 1);
    BOOST_REQUIRE(read.documents.size() == 2u);
    BOOST_TEST(read.documents[0].doc_id == 0);
    BOOST_TEST(read.documents[1].doc_id == 2);
    // Within a document that has all its answers it belongs to nobody, and so it does beside documents of one.
    BOOST_TEST(parse(line(5, 0, "1", "Q", " a") + stray + "\n" + line(5, 1, "1", "Q", " b")).documents.size() ==
               1u);
    const auto cloze =
        parse(line(0, 0, "\"a\"", "Q", " a") + stray + "\n" + line(2, 0, "0", "Q", " a") + stray);
    BOOST_TEST(cloze.documents.size() == 2u);
    BOOST_TEST(cloze.bad.size() == 2u);
    BOOST_TEST(cloze.left_out == 0);
  }
  // A document that comes back: what it says again is ignored, what it adds shows that it was not whole.
  const auto back = parse(good + other(1) + good);
  BOOST_TEST(back.bad.size() == 2u);
  BOOST_TEST(back.bad[0].why.find("r.jsonl:5: document 0 appears again") == 0u);
  BOOST_TEST(back.documents.size() == 2u);
  const auto more = parse(good + other(1) + line(0, 2, "1", "Q", " c"));
  BOOST_TEST(more.bad.size() == 1u);
  BOOST_REQUIRE(more.documents.size() == 1u);
  BOOST_TEST(more.documents[0].doc_id == 1);
  BOOST_TEST(more.left_out == 1);
}

BOOST_AUTO_TEST_CASE(nothing_to_score_is_an_error) {
  const auto good = line(0, 0, "1", "Q", " a") + line(0, 1, "1", "Q", " b");
  refused([&] { parse(line(0, 0, "0", "Q", "")); },
          "r.jsonl: nothing to score, 1 bad request: r.jsonl:1: document 0: empty continuation");
  refused([&] { parse("{\"doc_id\": 1,\n[]\n"); }, "2 bad requests: r.jsonl:1: not valid JSON");
  refused([&] { parse(good + line(1, 0, "0", "Q", " a")); }, "cloze and multiple choice are not mixed");
  refused([&] { parse("\n"); }, "r.jsonl: holds no request");
  refused([&] { parse(line(1000000, 0, "0", "Q", " a")); }, "r.jsonl: holds no request");
  refused([&] { program::request_parser("r.jsonl", 0); }, "limit of 0 documents");
}

BOOST_AUTO_TEST_CASE(lines_as_other_programs_write_them) {
  const folder f;
  const std::string text = line(0, 0, "\"a\"", "Q\\r\\n", " a") + line(1, 0, "\"b\"", "Q", " b");
  std::string crlf = "\xef\xbb\xbf";
  for (const char c : text) crlf += c == '\n' ? "\r\n" : std::string(1, c);
  for (const auto& path :
       {f.plain("crlf.jsonl", crlf), f.gz("crlf.jsonl.gz", crlf), f.plain("lf.jsonl", text)}) {
    const auto read = program::read_requests(path);
    BOOST_REQUIRE(read.documents.size() == 2u);
    BOOST_TEST(read.bad.empty());
    BOOST_TEST(read.documents[0].requests[0].context == "Q\r\n");
    BOOST_TEST(read.documents[1].requests[0].line == 2);
  }
  using namespace std::string_literals;
  for (const auto& [mark, name] : {std::pair{"\xff\xfe"s, "UTF-16, little"},
                                   {"\xfe\xff"s, "UTF-16, big"},
                                   {"\xff\xfe\0\0"s, "UTF-32, little"},
                                   {"\0\0\xfe\xff"s, "UTF-32, big"}}) {
    const auto path = f.plain("wide.jsonl", mark + text);
    refused([&] { program::read_requests(path); }, "wide.jsonl: begins with the byte order mark of "s + name);
  }
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
  refused([&] { program::score_multiple_choice(documents, few); }, "6 scores for 7 requests");
  auto bad = scores;
  bad[4].sum_logprob = std::nan("");
  refused([&] { program::score_multiple_choice(documents, bad); }, "document 1: log-probability of request 2");
  refused([&] { program::score_multiple_choice({}, {}); }, "0 scores for 0 requests");
}

BOOST_AUTO_TEST_CASE(cloze_scores) {
  const std::vector<program::document> documents{{0, 0, {{"Q", " a"}}}, {1, 0, {{"Q", " b"}}}};
  const std::vector<program::request_score> scores{{std::log(0.5), true, 1}, {std::log(0.02), false, 1}};
  const auto r = program::score_cloze(documents, scores);
  BOOST_TEST(r.documents == 2);
  BOOST_TEST(r.acc == 0.5);
  BOOST_TEST(r.ppl == 10.0, boost::test_tools::tolerance(1e-12));  // 1 / sqrt(0.5 * 0.02)
}
