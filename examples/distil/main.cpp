// The program: reads the command line, runs a subcommand, turns errors into one line and an exit status.

#include <csignal>
#include <cstring>
#include <iostream>
#include <new>

#include <distil_xlstm/version.hpp>

#include "command.hpp"
#include "launch.hpp"
#include "processes.hpp"

namespace {

struct command {
  const char* name;
  int (*run)(const program::arguments&);
  const char* about;
};
constexpr command commands[] = {
    {"tokenize", program::tokenize, "make a token file out of texts; print ids, or the text of ids"},
    {"sample", program::sample, "make a token file of a model's own text"},
    {"cache", program::cache, "save a teacher's hidden states over a text"},
    {"train", program::train, "distil a student from a teacher, or from a cache"},
    {"linearise", program::linearise, "replace a transformer's attention by recurrent memory"},
    {"generate", program::generate, "continue a text"},
    {"evaluate", program::evaluate, "perplexity of a text; accuracy on an evaluation set"},
    {"logits", program::logits, "logits and hidden states of given ids, into a file"},
    {"quantise", program::quantise, "write a model in few bits a weight, as one GGUF file"},
    {"inspect", program::inspect, "what is in a model, token file, cache or checkpoint"},
};

void print_help(std::ostream& out) {
  out << "distil turns a transformer into a recurrent language model.\n\n"
         "distil SUBCOMMAND [options]; `distil SUBCOMMAND --help` explains one.\n\n";
  for (const auto& c : commands)
    out << "  " << c.name << std::string(12 - std::strlen(c.name), ' ') << c.about << "\n";
  out << "\nA model is a GGUF file, a Hugging Face folder, or the folder of a student.\n"
         "Exit status: 0 done, 1 the job failed, 2 the command line is wrong.\n";
}

std::string one_line(std::string text) {
  for (char& c : text)
    if (c == '\n' || c == '\r') c = ' ';
  return text;
}

int report(const std::string& what, int status) {
  std::cerr << "distil: " << one_line(what) << "\n";
  return status;
}

/// How a subcommand ended.
struct outcome {
  int status = 0;
  std::string what = {};
};
outcome outcome_of(const program::process_session& session, const command& c, const program::arguments& given) {
  try {
    session.check(c.name);
    const int status = c.run(given);
    std::cout.flush();
    if (status == 0 && !std::cout) return {1, "stdout: cannot be written"};
    return {status};
  } catch (const program::usage_error& e) {
    return {2, std::string(c.name) + ": " + e.what() + " (`distil " + c.name + " --help` lists the options)"};
  } catch (const std::bad_alloc&) {
    return {1, std::string(c.name) + ": not enough memory"};
  } catch (const std::exception& e) {
    return {1, e.what()};
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);  // a closed pipe is an error of the stream, reported below
  std::signal(SIGXFSZ, SIG_IGN);  // so is a file that may not grow
  const program::arguments given(argv + 1, argv + argc);
  if (given.empty()) {
    print_help(std::cerr);
    return 2;
  }
  if (given[0] == "--help" || given[0] == "help") {
    print_help(std::cout);
    return 0;
  }
  if (given[0] == "--version") {
    std::cout << "distil " << distil_xlstm::version_major << "." << distil_xlstm::version_minor << "."
              << distil_xlstm::version_patch << "\n";
    return 0;
  }
  for (const auto& c : commands) {
    if (given[0] != c.name) continue;
    const program::arguments options(given.begin() + 1, given.end());
    try {
      if (const auto status = program::launch(c.name, options)) return *status;
      program::process_session session(c.name);
      const auto o = outcome_of(session, c, options);
      return session.end(o.status, one_line(o.what));
    } catch (const program::usage_error& e) {
      return report(e.what(), 2);
    } catch (const std::exception& e) {
      return report(e.what(), 1);
    }
  }
  return report("'" + given[0] + "' is not a subcommand (`distil --help` lists them)", 2);
}
