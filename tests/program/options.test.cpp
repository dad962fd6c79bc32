#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "distil/option_rules.hpp"
#include "material.hpp"

// The table of what options depend on, walked: every option of every subcommand is in it, and what it says is refused.
namespace distil_xlstm::program {
namespace {

/// The options that `--help` lists.
std::set<std::string> options_of(const std::string& command) {
  std::set<std::string> out;
  std::istringstream lines(done({command, "--help"}));
  for (std::string line; std::getline(lines, line);)
    if (line.starts_with("  --")) out.insert(line.substr(4, line.find_first_of(" \n", 4) - 4));
  out.erase("help");
  return out;
}

/// What each subcommand needs to get as far as its options.
std::vector<std::string> least(const std::string& command) {
  const auto& m = material::get();
  const fs::path out = m.folder / "never";
  const std::map<std::string, std::vector<std::string>> given = {
      {"tokenize", arguments("--tokenizer", m.teacher)},
      {"sample", arguments("--tokens 9 --model", m.teacher, "--out", out)},
      {"cache", arguments("--length 8 --teacher", m.teacher, "--tokens", m.tokens, "--out", out)},
      {"train", arguments("--steps 1 --teacher", m.teacher, "--tokens", m.tokens, "--out", out)},
      {"linearise", arguments("--minutes 1 --teacher", m.teacher, "--tokens", m.tokens, "--out", out)},
      {"generate", arguments("--model", m.teacher)},
      {"evaluate", arguments("--model", m.teacher)},
      {"logits", arguments("--model", m.teacher, "--ids", m.tokens, "--out", out)},
      {"quantise", arguments("--type q8_0 --model", m.teacher, "--out", out)},
      {"inspect", {}}};
  return arguments(command, given.at(command));
}

/// The worked examples with which `--help` ends, each a line of a shell.
std::vector<std::string> examples_of(const std::string& command) {
  const std::string help = done({command, "--help"}), title = "\nExamples:\n";
  const auto at = help.find(title);
  BOOST_REQUIRE(at != help.npos);
  std::istringstream lines(help.substr(at + title.size()));
  std::vector<std::string> out;
  bool goes_on = false;
  for (std::string line; std::getline(lines, line);) {
    BOOST_TEST(line.starts_with("  "));
    if (line.starts_with("  #")) continue;
    if (!std::exchange(goes_on, line.ends_with('\\'))) out.emplace_back();
    out.back() += line + "\n";
  }
  return out;
}

}  // namespace

BOOST_AUTO_TEST_CASE(examples_are_command_lines) {
  const temporary_folder nothing;
  for (const std::string command : subcommands) {
    const auto examples = examples_of(command);
    BOOST_TEST((examples.size() == 1 || examples.size() == 2));
    for (const auto& example : examples) BOOST_TEST_CONTEXT(example) {
        BOOST_TEST(example.starts_with("  distil " + command + " "));
        // The files are not there, which is another status than a command line that is wrong.
        const std::string script = "distil() { \"$0\" \"$@\"; }\ncd \"$1\" && " + example;
        const outcome o = run({nothing.path.string()}, {.launcher = {"/bin/sh", "-c", script}});
        BOOST_TEST(o.status == 1);
        BOOST_TEST(o.err.starts_with("distil: "));
        BOOST_TEST((o.err.find("o such file") != o.err.npos), o.err);
      }
  }
}

BOOST_AUTO_TEST_CASE(every_option_is_in_the_table) {
  for (const std::string command : subcommands) {
    std::set<std::string> ruled;
    for (const auto& r : ::program::option_rules())
      if (r.command == command) ruled.insert(std::string(r.option));
    BOOST_TEST_CONTEXT(command) BOOST_TEST(options_of(command) == ruled, boost::test_tools::per_element());
  }
}

BOOST_AUTO_TEST_CASE(an_option_without_effect_is_refused_by_name) {
  int rules = 0;
  for (const auto& r : ::program::option_rules()) {
    BOOST_TEST(r.any.empty() == r.example.empty());
    if (r.any.empty()) continue;
    ++rules;
    const std::string command(r.command), option = "--" + std::string(r.option);
    refused(arguments(least(command), std::string(r.example)), 2,
            {command + ": " + option + ": has no effect"});
  }
  BOOST_TEST(rules >= 12);
}

BOOST_AUTO_TEST_CASE(what_weighs_nothing_is_refused) {
  const auto train = least("train");
  for (const auto& [more, option] : std::vector<std::pair<std::string, std::string>>{
           {"--temperature 2 --alpha 0", "--temperature: has no effect with --alpha 0"},
           {"--temperature 2:1 --alpha 0:0", "--temperature: has no effect with --alpha 0"},
           {"--alignment mse", "--alignment: has no effect with --beta 0"},
           {"--alignment mse --beta 0.0", "--alignment: has no effect with --beta 0"},
           {"--schedule cosine", "--schedule: has no effect"},
           {"--schedule cosine --alpha 0.3", "--schedule: has no effect"},
           {"--schedule constant --alpha 0.8:0.2", "--schedule constant"}})
    refused(arguments(train, more), 2, {option});
}

}  // namespace distil_xlstm::program
