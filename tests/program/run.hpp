#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <sstream>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <boost/test/unit_test.hpp>

namespace distil_xlstm::program {

namespace fs = std::filesystem;

inline const char* const subcommands[] = {"tokenize", "sample",   "cache",  "train",    "linearise",
                                          "generate", "evaluate", "logits", "quantise", "inspect"};

/// How a program ended: its exit status, or minus the signal that ended it, and what it wrote.
struct outcome {
  int status = 0;
  std::string out, err;
};

/// What a program runs in.
struct surroundings {
  std::string input = {};                               ///< stdin
  fs::path output = {};                                 ///< stdout goes to this file, not to `outcome::out`
  std::map<std::string, std::string> environment = {};  ///< beside that of the test
  long file_limit = -1;                                 ///< most bytes a file may have (RLIMIT_FSIZE); -1: any
  double timeout = 60;                                  ///< seconds
  std::vector<std::string> launcher = {};               ///< what starts the program, and its arguments
};

/// Arguments of a command line: texts are cut at blanks, paths are taken whole.
template <class... Parts>
std::vector<std::string> arguments(const Parts&... parts) {
  std::vector<std::string> out;
  const auto add = [&]<class P>(const P& part) {
    if constexpr (std::is_same_v<P, fs::path>) {
      out.push_back(part.string());
    } else if constexpr (std::is_same_v<P, std::vector<std::string>>) {
      out.insert(out.end(), part.begin(), part.end());
    } else {
      std::istringstream words{std::string(part)};
      for (std::string word; words >> word;) out.push_back(word);
    }
  };
  (add(parts), ...);
  return out;
}

/// `distil`, which the environment variable DISTIL names, while it runs. What is still running at the end of
/// its scope is killed.
class process {
 public:
  explicit process(const std::vector<std::string>& given, const surroundings& where = {})
      : deadline_(clock::now() +
                  std::chrono::duration_cast<clock::duration>(std::chrono::duration<double>(where.timeout))) {
    const char* program = std::getenv("DISTIL");
    BOOST_REQUIRE_MESSAGE(program, "the environment variable DISTIL must name the program");
    for (const auto& g : given) shown_ += " " + g;
    for (auto& f : streams_) BOOST_REQUIRE((f = ::memfd_create("distil", MFD_CLOEXEC)) >= 0);
    BOOST_REQUIRE(::write(streams_[0], where.input.data(), where.input.size()) ==
                  static_cast<ssize_t>(where.input.size()));
    ::lseek(streams_[0], 0, SEEK_SET);
    std::vector<char*> argv;
    for (const auto& word : where.launcher) argv.push_back(const_cast<char*>(word.c_str()));
    argv.push_back(const_cast<char*>(program));
    for (const auto& g : given) argv.push_back(const_cast<char*>(g.c_str()));
    argv.push_back(nullptr);
    child_ = ::fork();
    BOOST_REQUIRE(child_ >= 0);
    if (child_ > 0) return;
    for (int i = 0; i < 3; ++i) ::dup2(streams_[i], i);
    if (!where.output.empty()) ::dup2(::open(where.output.c_str(), O_WRONLY), 1);
    for (const auto& [key, value] : where.environment) ::setenv(key.c_str(), value.c_str(), 1);
    for (const int s : {SIGINT, SIGTERM, SIGPIPE, SIGXFSZ}) std::signal(s, SIG_DFL);
    if (where.file_limit >= 0) {
      const rlimit limit{static_cast<rlim_t>(where.file_limit), static_cast<rlim_t>(where.file_limit)};
      ::setrlimit(RLIMIT_FSIZE, &limit);
    }
    ::execvp(argv[0], argv.data());
    ::_exit(127);
  }
  process(const process&) = delete;
  process& operator=(const process&) = delete;
  ~process() {
    if (child_ > 0) {
      ::kill(child_, SIGKILL);
      ::waitpid(child_, nullptr, 0);
    }
    for (const int f : streams_) ::close(f);
  }

  bool running() {
    if (child_ > 0 && ::waitpid(child_, &status_, WNOHANG) == child_) child_ = -1;
    return child_ > 0;
  }
  void signal(int s) {
    if (running()) ::kill(child_, s);
  }
  /// Waits while the program runs and `pending()` holds.
  template <class Pending>
  void wait_while(const Pending& pending) {
    while (running() && pending()) {
      if (clock::now() > deadline_) BOOST_FAIL("distil" << shown_ << ": takes too long");
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
  }
  outcome wait() {
    wait_while([] { return true; });
    const int status = WIFEXITED(status_) ? WEXITSTATUS(status_) : -WTERMSIG(status_);
    BOOST_TEST_MESSAGE("distil" << shown_ << "\n  " << status << " " << written(2));
    return {status, written(1), written(2)};
  }

 private:
  using clock = std::chrono::steady_clock;
  std::string written(int i) const {
    std::string text(static_cast<std::size_t>(::lseek(streams_[i], 0, SEEK_END)), '\0');
    text.resize(static_cast<std::size_t>(::pread(streams_[i], text.data(), text.size(), 0)));
    return text;
  }
  clock::time_point deadline_;
  std::string shown_;
  int streams_[3] = {-1, -1, -1};
  pid_t child_ = -1;
  int status_ = 0;
};

inline outcome run(const std::vector<std::string>& given, const surroundings& where = {}) {
  return process(given, where).wait();
}

/// Runs what must succeed, and say nothing on stderr beside what is allowed; returns stdout.
inline std::string done(const std::vector<std::string>& given, const surroundings& where = {}) {
  const outcome o = run(given, where);
  BOOST_REQUIRE_MESSAGE(o.status == 0, "status " << o.status << ": " << o.err);
  return o.out;
}

/// Runs what must be refused: with this status, nothing on stdout and one line on stderr that has all `parts`
/// in it.
inline void refused(const std::vector<std::string>& given, int status, const std::vector<std::string>& parts,
                    const surroundings& where = {}) {
  const outcome o = run(given, where);
  std::string shown;
  for (const auto& g : given) shown += g + " ";
  BOOST_TEST_CONTEXT(shown << "\n" << o.err) {
    BOOST_TEST(o.status == status);
    BOOST_TEST(o.out == "");
    BOOST_TEST(o.err.starts_with("distil: "));
    BOOST_TEST(o.err.find('\n') == o.err.size() - 1);
    for (const auto& part : parts) BOOST_TEST_CONTEXT(part) BOOST_TEST((o.err.find(part) != std::string::npos));
  }
}

}  // namespace distil_xlstm::program
