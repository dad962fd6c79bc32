#include <boost/test/unit_test.hpp>

#include <zlib.h>

#include <cmath>

#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/io/tokenizer.hpp>

#include "material.hpp"
#include "scores.hpp"

// `distil evaluate --requests`, against what the logits say.
namespace distil_xlstm::program {

BOOST_AUTO_TEST_CASE(cloze_requests) {
  const auto& m = material::get();
  // One that the model gets right is looked for: its own arg max after some context, read as that token again.
  std::vector<std::pair<std::string, std::string>> asked = {
      {"In winter the river", " sings"}, {"The other teacher", " thinks."}, {"small light under", " the rain"}};
  for (std::uint64_t seed = 1; asked.size() == 3 && seed < 50; ++seed) {
    const std::string context = some_text(5, seed) + "x";
    const auto ids = encode(context);
    const auto next = logits_of(m.teacher, ids, 1, "fp64").likeliest(0, std::ssize(ids) - 1);
    if (next >= tokenizer().vocab_size()) continue;
    auto both = ids;
    both.push_back(next);
    const std::string continuation(tokenizer().bytes(next));
    if (tokenizer().encode(context + continuation).ids == both) asked.emplace_back(context, continuation);
  }
  BOOST_REQUIRE(asked.size() == 4);

  double sum = 0;
  int right = 0;
  std::string lines;
  for (std::size_t d = 0; d < asked.size(); ++d) {
    const auto& [context, continuation] = asked[d];
    const auto ids = encode(context + continuation);
    const auto known = std::ssize(encode(context));
    const logits_of l(m.teacher, ids, 1, "fp64");
    bool all = true;
    for (index t = known; t < std::ssize(ids); ++t) {
      const auto id = ids[static_cast<std::size_t>(t)];
      sum += l.log_p(0, t - 1, id);
      all = all && l.likeliest(0, t - 1) == id;
    }
    right += all;
    lines += json{{"doc_id", d},
                  {"idx", 0},
                  {"label", continuation},
                  {"request", {{"context", context}, {"continuation", continuation}}}}
                 .dump() +
             "\n";
  }
  BOOST_TEST(right >= 1);
  const auto file = m.folder / "cloze.jsonl", packed = m.folder / "cloze.jsonl.gz";
  write_file(file, lines);
  const auto arg = arguments("--precision fp64 --model", m.teacher, "--requests");
  const json got = evaluate(arguments(arg, file));
  BOOST_TEST(
      keys(got) == (std::vector<std::string>{"acc", "acc_norm", "bad", "cut", "documents", "left_out", "ppl"}),
      boost::test_tools::per_element());
  BOOST_TEST(got["documents"] == 4);
  for (const char* key : {"bad", "cut", "left_out"}) BOOST_TEST(got[key] == 0);
  BOOST_TEST(got["acc"].get<double>() == right / 4.0);
  BOOST_TEST(got["acc_norm"].is_null());
  BOOST_TEST(close(got["ppl"].get<double>(), std::exp(-sum / 4), 1e-10));
  const auto gz = ::gzopen(packed.c_str(), "wb");
  ::gzwrite(gz, lines.data(), static_cast<unsigned>(lines.size()));
  ::gzclose(gz);
  BOOST_TEST(evaluate(arguments(arg, packed)) == got);
  BOOST_TEST(evaluate(arguments(arg, packed, "--limit 2"))["documents"] == 2);
}

BOOST_AUTO_TEST_CASE(multiple_choice_requests) {
  const auto& m = material::get();
  const std::vector<std::string> contexts = {"In winter", "The small teacher", "Under the light the rain",
                                             "A river"};
  const std::vector<std::string> choices = {" thinks under the other", " a", " 7 sings, 7",
                                            " the singing rain."};
  std::string lines;
  const auto add = [&](std::size_t id, std::size_t c, std::size_t i, std::size_t label) {
    lines += json{{"doc_id", id},
                  {"idx", i},
                  {"label", label},
                  {"request", {{"context", contexts[c]}, {"continuation", choices[i]}}}}
                 .dump() +
             "\n";
  };
  int right = 0, right_by_character = 0;
  for (std::size_t d = 0; d < contexts.size(); ++d) {
    std::vector<double> sums, by_character;
    for (const auto& choice : choices) {
      const auto ids = encode(contexts[d] + choice);
      const logits_of l(m.student(), ids, 1, "fp64");
      double sum = 0;
      for (index t = std::ssize(encode(contexts[d])); t < std::ssize(ids); ++t)
        sum += l.log_p(0, t - 1, ids[static_cast<std::size_t>(t)]);
      sums.push_back(sum), by_character.push_back(sum / static_cast<double>(choice.size() - 1));
    }
    const auto best = [](const std::vector<double>& x) {
      return std::max_element(x.begin(), x.end()) - x.begin();
    };
    // The label is the best, by turns that of the sums, that of the characters and neither.
    const auto label = static_cast<std::size_t>(d == 3  ? (best(sums) + 1) % 4
                                                : d % 2 ? best(by_character)
                                                        : best(sums));
    right += best(sums) == static_cast<std::ptrdiff_t>(label);
    right_by_character += best(by_character) == static_cast<std::ptrdiff_t>(label);
    for (std::size_t i = 0; i < choices.size(); ++i) add(d, d, i, label);
  }
  for (std::size_t i = 0; i < choices.size(); ++i) add(1000000, 0, i, 0);
  const auto file = m.folder / "choice.jsonl";
  write_file(file, lines);
  const json got = evaluate(arguments("--precision fp64 --model", m.student(), "--requests", file));
  BOOST_TEST(got["documents"] == 4);
  BOOST_TEST(got["acc"].get<double>() == right / 4.0);
  BOOST_TEST(got["acc_norm"].get<double>() == right_by_character / 4.0);
  BOOST_TEST(got["ppl"].is_null());
}

BOOST_AUTO_TEST_CASE(requests_are_scored_as_the_harness_does) {
  const auto& m = material::get();
  const temporary_folder folder;
  const fs::path file = folder / "requests.jsonl";
  const auto line = [](int id, const std::string& context, const std::string& continuation) {
    return json{{"doc_id", id},
                {"idx", 0},
                {"label", 0},
                {"request", {{"context", context}, {"continuation", continuation}}}}
               .dump() +
           "\n";
  };
  const auto arg = arguments("evaluate --json --precision fp64 --requests", file, "--model");
  const auto nats = [&](const fs::path& model, const std::string& lines) {
    write_file(file, lines);
    const json got = json::parse(done(arguments(arg, model)));
    return std::log(got["ppl"].get<double>()) * got["documents"].get<double>();
  };
  const auto expected = [&](const fs::path& model, const ids_type& ids, index context) {
    const logits_of l(model, ids, 1, "fp64");
    double nll = 0;
    for (index t = context; t < std::ssize(ids); ++t)
      nll -= l.log_p(0, t - 1, ids[static_cast<std::size_t>(t)]);
    return nll;
  };
  // A blank belongs to the continuation, on whichever side it is written, and all of it is scored.
  const auto rain = encode("In winter the river"), known = encode("In winter");
  const double whole = expected(m.teacher, rain, std::ssize(known));
  BOOST_TEST(close(nats(m.teacher, line(0, "In winter", " the river")), whole, 1e-10));
  BOOST_TEST(close(nats(m.teacher, line(0, "In winter ", "the river")), whole, 1e-10));
  BOOST_TEST(close(nats(m.teacher, line(0, "In winter \n", "the river")),
                   expected(m.teacher, encode("In winter \nthe river"), std::ssize(known)), 1e-10));
  // What merges into the context's last token is not scored, and the context is read as it stands.
  auto merged = encode("7 th");
  const index before = std::ssize(merged);
  const auto both = encode("7 the rain");
  merged.insert(merged.end(), both.begin() + before, both.end());
  BOOST_TEST(close(nats(m.teacher, line(0, "7 th", "e rain")), expected(m.teacher, merged, before), 1e-10));
  // An empty context is the token that begins a text.
  auto bare = encode("the rain");
  bare.insert(bare.begin(), 0);
  BOOST_TEST(close(nats(m.teacher, line(0, "", "the rain")), expected(m.teacher, bare, 1), 1e-10));

  // A transformer's context is cut on the left, a student's is as long as it is.
  const fs::path narrow = folder / "narrow";
  fs::copy(m.teacher, narrow);
  json config = io::read_json_file(narrow / "config.json");
  config["max_position_embeddings"] = 6;
  write_file(narrow / "config.json", config.dump());
  const std::string lines = line(0, "singing", " the river") + line(1, "a", "b");
  write_file(file, lines);
  const auto all = encode("singing the river");
  const ids_type last(all.end() - 7, all.end());
  const index scored = std::ssize(all) - std::ssize(encode("singing"));
  const outcome o = run(arguments(arg, narrow));
  BOOST_TEST(o.status == 0);
  BOOST_TEST(
      (o.err.find("1 of 2 requests are longer than the model's context of 6 tokens") != std::string::npos));
  const json cut = json::parse(o.out);
  BOOST_TEST(cut["cut"] == 1);
  BOOST_TEST(close(2 * std::log(cut["ppl"].get<double>()),
                   expected(m.teacher, last, 7 - scored) + expected(m.teacher, encode("ab"), 1), 1e-10));
  const std::string longer = line(0, some_text(200, 3), " the river");
  BOOST_TEST(nats(m.student(), longer) > 0);
  write_file(file, longer);
  BOOST_TEST(json::parse(done(arguments(arg, m.student())))["cut"] == 0);
  config["max_position_embeddings"] = 4;
  write_file(narrow / "config.json", config.dump());
  refused(arguments("evaluate --requests", file, "--model", narrow), 1,
          {file.string() + ": nothing to score", file.string() + ":1: document 0", "' the river' has 7 tokens",
           "context 4"});
}

BOOST_AUTO_TEST_CASE(one_bad_request_does_not_lose_the_others) {
  const auto& m = material::get();
  const temporary_folder folder;
  const fs::path file = folder / "requests.jsonl";
  const auto line = [](int id, const std::string& request) {
    return "{\"doc_id\": " + std::to_string(id) + ", \"idx\": 0, \"label\": \"x\", \"request\": " + request +
           "}\n";
  };
  const auto pair = [&](int id, const std::string& context, const std::string& continuation) {
    return line(id, json{{"context", context}, {"continuation", continuation}}.dump());
  };
  const auto arg = arguments("evaluate --json --model", m.teacher, "--requests", file);
  const std::string good = pair(0, "In winter", " the river"), other = pair(90, "A", " river");
  write_file(file, good + other);
  const json alone = json::parse(done(arg));
  for (const auto& [bad, why] : std::vector<std::pair<std::string, std::string>>{
           {pair(1, "a", ""), "document 1: empty continuation"},
           {pair(1, "th", "e"), "document 1: the continuation 'e' adds no token"},
           {line(1, "{\"context\": \"a\", \"continuation\": \"\xff\"}"), "not valid JSON"},
           {line(1, "{\"context\": \"a\", \"continuation\": \"\\ud800\"}"), "not valid JSON"},
           {line(1, "{\"context\": \"a\", \"continuation\": [1]}"), "continuation must be a string"},
           {line(1, "{\"context\": null, \"continuation\": \"a\"}"), "context must be a string"},
           {pair(1, "\u65e5", " a"), "the context"},
           {pair(1, "a", "\u65e5"), "adds no token"},
           {"{\"doc_id\": 1, \"idx\"\n", "not valid JSON"},
           {pair(0, "In", " winter"), "document 0: idx 0 is given again"}}) {
    write_file(file, good + bad + other);
    const outcome o = run(arg);
    BOOST_TEST_CONTEXT(bad << o.err) {
      BOOST_REQUIRE(o.status == 0);
      json got = json::parse(o.out);
      BOOST_TEST(got["bad"] == 1);
      BOOST_TEST((o.err.find(file.string() + ":2: ") != std::string::npos));
      BOOST_TEST((o.err.find(why) != std::string::npos));
      BOOST_TEST((o.err.find("1 bad request") != std::string::npos));
      got["bad"] = 0, got["left_out"] = 0;
      BOOST_TEST(got == alone);
    }
    if (bad.find("\"doc_id\": 0") != bad.npos) continue;
    write_file(file, bad);
    refused(arg, 1, {file.string() + ": nothing to score, 1 bad request: " + file.string() + ":1: ", why});
  }
}

}  // namespace distil_xlstm::program
