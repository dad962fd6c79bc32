#include "launch.hpp"

#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include <distil_xlstm/comm/tcp_session.hpp>

#include "processes.hpp"
#include "signals.hpp"

extern char** environ;

namespace program {
namespace {

/// The N of "--option N" or "--option=N"; 0: there is none.
int asked(const arguments& given, const std::string& option) {
  int n = 0;
  for (std::size_t i = 0; i < given.size(); ++i) {
    std::string_view text;
    if (given[i] == option && i + 1 < given.size())
      text = given[i + 1];
    else if (given[i].starts_with(option + "="))
      text = std::string_view(given[i]).substr(option.size() + 1);
    const auto [stop, wrong] = std::from_chars(text.data(), text.data() + text.size(), n);
    if (!text.empty() && (wrong != std::errc() || stop != text.data() + text.size())) return 0;
  }
  return n;
}

class children {
 public:
  children(int count, const arguments& words)
      : pids_(static_cast<std::size_t>(count)), after_fault_(what_stands(words[1])) {
    const auto [listening, port] = dx::comm::tcp_session::listen_here();
    const std::string by = std::to_string(::getpid());
    for (int rank = 0; rank < count; ++rank) {
      std::vector<std::string> variables = {"RANK=" + std::to_string(rank),
                                            "LOCAL_RANK=" + std::to_string(rank),
                                            "WORLD_SIZE=" + std::to_string(count),
                                            "LOCAL_WORLD_SIZE=" + std::to_string(count),
                                            "MASTER_ADDR=127.0.0.1",
                                            "MASTER_PORT=" + std::to_string(port),
                                            std::string(launched_by) + "=" + by};
      if (rank == 0) variables.push_back(std::string(listening_at) + "=" + std::to_string(listening));
      start(rank, words, variables);
      // The others have no use for it.
      if (rank == 0) ::close(listening);
    }
  }
  children(const children&) = delete;
  children& operator=(const children&) = delete;

  /// Until all have ended.
  int wait() {
    using clock = std::chrono::steady_clock;
    int status = 0;
    std::optional<clock::time_point> first;
    for (std::size_t left = pids_.size(); left > 0;) {
      int how = 0;
      const pid_t pid = ::waitpid(-1, &how, WNOHANG);
      if (pid > 0) {
        const auto found = std::find(pids_.begin(), pids_.end(), pid);
        if (found == pids_.end()) continue;  // a child that this process had before it was distil
        const auto rank = found - pids_.begin();
        *found = 0, --left;
        const int its = WIFSIGNALED(how) ? 128 + WTERMSIG(how) : WEXITSTATUS(how);
        if (its != 0 && !first) {
          first = clock::now(), status = its;
          if (WIFSIGNALED(how))
            say("rank " + std::to_string(rank) + " of " + std::to_string(pids_.size()) +
                " was ended by signal " + std::to_string(WTERMSIG(how)) + " (" + ::strsignal(WTERMSIG(how)) +
                ")" + after_fault_);
        }
        continue;
      }
      if (pid < 0 && errno == ECHILD) return status ? status : 1;
      if (const int s = caught_signal; s != 0 && s != passed_on_) send(passed_on_ = s);
      if (first && clock::now() - *first > std::chrono::seconds(10)) send(SIGKILL);
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    return status;
  }

 private:
  void start(int rank, const arguments& words, const std::vector<std::string>& variables) {
    std::vector<std::string> all = variables;
    for (char** e = environ; *e; ++e) {
      const std::string_view entry(*e), name = entry.substr(0, entry.find('='));
      if (std::none_of(variables.begin(), variables.end(),
                       [&](const std::string& v) { return v.substr(0, v.find('=')) == name; }))
        all.emplace_back(entry);
    }
    std::vector<char*> environment, argv;
    for (auto& e : all) environment.push_back(e.data());
    environment.push_back(nullptr);
    auto own = words;
    for (auto& w : own) argv.push_back(w.data());
    argv.push_back(nullptr);
    if (const int code = ::posix_spawn(&pids_[static_cast<std::size_t>(rank)], "/proc/self/exe", nullptr,
                                       nullptr, argv.data(), environment.data());
        code != 0) {
      pids_.resize(static_cast<std::size_t>(rank));
      send(SIGKILL);
      wait();
      dx::fail("rank ", rank, " cannot be started: ", std::strerror(code));
    }
  }
  void send(int signal) const {
    for (const pid_t pid : pids_)
      if (pid > 0) ::kill(pid, signal);
  }

  std::vector<pid_t> pids_;
  std::string after_fault_;
  int passed_on_ = 0;
};

}  // namespace

std::optional<int> launch(std::string_view command, const arguments& given) {
  if (std::getenv(launched_by)) return {};
  const int gpus = asked(given, "--gpus"), cpus = asked(given, "--processes"), count = std::max(gpus, cpus);
  if (count < 2) return {};
  if (gpus > 0 && cpus > 0) throw usage_error("--processes: --gpus says how many there are");
  if (count > 1024)
    throw usage_error((gpus ? "--gpus: " : "--processes: ") + std::to_string(count) + " are not possible");
  process_session::check_alone(command, gpus ? "--gpus" : "--processes");
  arguments words{"distil", std::string(command)};
  words.insert(words.end(), given.begin(), given.end());
  catch_signals();
  std::signal(SIGCHLD, SIG_DFL);  // where it is ignored nobody learns how a child has ended
  return children(count, words).wait();
}

}  // namespace program
