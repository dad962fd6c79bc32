#pragma once

#include <string>
#include <string_view>
#include <vector>

#include <boost/program_options.hpp>

#include "common.hpp"
#include "machine.hpp"

namespace boost {
/// A path is the argument as it is; the stream that Boost would read it from stops at a blank.
inline void validate(any& value, const std::vector<std::string>& given, std::filesystem::path*, int) {
  program_options::validators::check_first_occurrence(value);
  value = std::filesystem::path(program_options::validators::get_single_string(given, true));
}
}  // namespace boost

namespace program {

namespace po = boost::program_options;

using arguments = std::vector<std::string>;

/// The subcommands. Each takes what follows its name and returns the exit status.
int tokenize(const arguments&);
int sample(const arguments&);
int cache(const arguments&);
int train(const arguments&);
int linearise(const arguments&);
int generate(const arguments&);
int evaluate(const arguments&);
int logits(const arguments&);
int quantise(const arguments&);
int inspect(const arguments&);

/// --device, --precision and --threads.
po::options_description machine_options(machine& where);
/// Throws `usage_error` unless there is such a machine.
void check(machine& where);

/// What --help prints around the options: before them how a subcommand is called and what it does, behind them worked
/// examples, lines of a shell.
struct help_text {
  const char *usage, *examples;
};

/// Parses and stores; false when --help was asked for and printed. Throws `usage_error`.
bool parse(const arguments& given, const help_text& help, const po::options_description& options,
           po::variables_map& values, const char* positional = nullptr);

/// Throws `usage_error` naming an option of `command` that is given and has no effect with the others: the rules are
/// in option_rules.hpp.
void require_effects(std::string_view command, const po::variables_map& values);

/// Whole numbers as in "512,2048", in their order. Throws `usage_error` where they are none, naming the option and
/// `what` they are with an example, and where one is named twice.
std::vector<dx::index> numbers_of(const char* option, const std::string& text, const char* what);

/// Throws `usage_error` unless the value is there.
inline void need(const fs::path& value, const char* option) {
  if (value.empty()) throw usage_error(std::string("--") + option + " is missing");
}

}  // namespace program
