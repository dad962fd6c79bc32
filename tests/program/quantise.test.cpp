#include <boost/test/unit_test.hpp>

#include <cmath>
#include <sstream>

#include <distil_xlstm/io/gguf.hpp>
#include <distil_xlstm/io/json.hpp>

#include "material.hpp"

// `distil quantise` from outside.
namespace distil_xlstm::program {
namespace {

using io::json;

/// The lines of the table that it prints, as words.
std::vector<std::vector<std::string>> table(const std::string& text) {
  std::vector<std::vector<std::string>> out;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    out.emplace_back();
    for (std::string word; words >> word;) out.back().push_back(word);
  }
  return out;
}
json evaluate(const std::vector<std::string>& more) {
  return json::parse(done(arguments("evaluate --json", more)));
}
fs::path linearised() {
  static const fs::path made = [] {
    const auto& m = material::get();
    const fs::path out = m.folder / "linearised";
    done(
        arguments("linearise --batch 2 --length 16 --align-tokens 64 --distil-tokens 64 --window 8 --sinks 2 "
                  "--needle none --teacher",
                  m.teacher, "--tokens", m.tokens, "--out", out));
    return out / "student";
  }();
  return made;
}

}  // namespace

BOOST_AUTO_TEST_CASE(every_subcommand_takes_the_file) {
  const auto& m = material::get();
  for (const fs::path& model : {m.teacher, m.student(), linearised()})
    for (const std::string type : {"q8_0", "q4_0"}) BOOST_TEST_CONTEXT(model.string() << " " << type) {
        const auto file = m.folder / ("of " + type + ".gguf");
        const auto shown = table(done(arguments("quantise --window 16 --precision fp64 --type", type, "--model",
                                                model, "--out", file, "--tokens", m.held_out)));
        // The table: sizes, and what `evaluate` says of both.
        BOOST_REQUIRE(shown.size() == 4u);
        BOOST_TEST(shown[1] == (std::vector<std::string>{"bytes", "bits", "ppl", "kl"}),
                   boost::test_tools::per_element());
        BOOST_TEST(shown[2].size() == 4u);
        BOOST_TEST(shown[3].size() == 5u);
        BOOST_TEST(shown[2][0] == "original");
        BOOST_TEST(shown[3][0] == type);
        BOOST_TEST(std::stod(shown[2][2]) == 32);
        BOOST_TEST(std::stod(shown[3][2]) < 32);
        const auto of = [&](const fs::path& which) {
          return evaluate(arguments("--window 16 --precision fp64 --teacher", model, "--tokens", m.held_out,
                                    "--model", which));
        };
        const json before = of(model), after = of(file);
        const auto close = [](const std::string& a, const json& b) {
          return std::abs(std::stod(a) - b.get<double>()) <= 1e-3 * std::abs(b.get<double>());
        };
        BOOST_TEST(close(shown[2][3], before["ppl"]));
        BOOST_TEST(close(shown[3][3], after["ppl"]));
        BOOST_TEST(close(shown[3][4], after["kl"]));
        BOOST_TEST(after["kl"].get<double>() > 0);
        BOOST_TEST(after["kl"].get<double>() < (type == "q8_0" ? 1e-2 : 1.0));
        // Text in and out, with the tokenizer of the file.
        const auto generate = arguments("generate --tokens 12 --temperature 0 --prompt river --model");
        BOOST_TEST(!done(arguments(generate, file)).empty());
        BOOST_TEST(done(arguments("inspect", file)).find(type == "q8_0" ? " Q8_0 " : " Q4_0 ") !=
                   std::string::npos);
        BOOST_TEST(evaluate(arguments("--text", m.other_text, "--model", file)).contains("ppl"));
      }
}

BOOST_AUTO_TEST_CASE(inspect_says_what_the_file_is) {
  const auto& m = material::get();
  const auto file = m.folder / "inspected student.gguf";
  const auto said = [&](const fs::path& model) {
    const std::string text = done(arguments("inspect", model));
    return text.substr(text.rfind('\n', text.size() - 2) + 1);
  };
  for (const fs::path& model : {m.student(), m.teacher}) {
    done(arguments("quantise --type q8_0 --model", model, "--out", file));
    BOOST_TEST(said(file) == said(model));
  }
}

BOOST_AUTO_TEST_CASE(training_goes_on_from_a_file) {
  const auto& m = material::get();
  const auto teacher = m.folder / "teacher of q8_0.gguf", student = m.folder / "student of q8_0.gguf",
             out = m.folder / "trained from files";
  done(arguments("quantise --type q8_0 --model", m.teacher, "--out", teacher));
  done(arguments("quantise --type q8_0 --model", m.student(), "--out", student));
  done(arguments("train --batch 2 --length 16 --steps 2 --teacher", teacher, "--init", student, "--tokens",
                 m.tokens, "--out", out));
  BOOST_TEST(fs::exists(out / "student/tokenizer.json"));
}

BOOST_AUTO_TEST_CASE(what_is_refused) {
  const auto& m = material::get();
  const auto file = m.folder / "refused.gguf";
  const auto all = arguments("quantise --model", m.student(), "--out", file);
  refused(all, 2, {"--type is missing"});
  refused(arguments(all, "--type q6_k"), 2, {"--type: 'q6_k' is not known (q8_0, q4_0 are)"});
  refused(arguments(all, "--type q8_0 --window 1 --tokens", m.tokens), 2, {"--window"});
  refused(arguments(all, "--type q8_0 --text", m.text, "--tokens", m.tokens), 2, {"--text and --tokens"});
  refused(arguments("quantise --type q8_0 --model", m.folder / "none", "--out", file), 1, {"no such file"});
  refused(arguments("quantise --type q8_0 --model", m.student(), "--out", m.folder / "none/a.gguf"), 1,
          {"a.gguf: cannot create"});
  BOOST_TEST(!fs::exists(file));
  // A disk that is full: the file that was there stays.
  write_file(file, "what was there");
  refused(arguments(all, "--type q8_0"), 1, {"refused.gguf: cannot write"}, {.file_limit = 4096});
  BOOST_TEST(content(file) == "what was there");
  done(arguments(all, "--type q8_0"));
  refused(arguments("quantise --type q4_0 --model", file, "--out", file), 1, {"is the model itself"});
}

}  // namespace distil_xlstm::program
