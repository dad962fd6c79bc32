#include "processes.hpp"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <iostream>
#include <mutex>
#include <optional>
#include <streambuf>
#include <thread>
#include <vector>

#include <distil_xlstm/comm/agree.hpp>
#if defined(DISTIL_WITH_MPI)
#include <distil_xlstm/comm/mpi_session.hpp>
#include <distil_xlstm/comm/mpi_watch.hpp>
#endif

namespace program {
namespace {

/// The number that an environment variable holds; 0: none.
long number_in(const char* variable) {
  const char* text = std::getenv(variable);
  long n = 0;
  if (text) std::from_chars(text, text + std::strlen(text), n);
  return n;
}

/// How many processes a launcher of MPI says that it has started: Open MPI's, MPICH's and those that are like it.
long launched() { return std::max(number_in("OMPI_COMM_WORLD_SIZE"), number_in("PMI_SIZE")); }

/// One line on stderr, whatever std::cerr is made of now.
void say(const std::string& text) {
  const std::string line = "distil: " + text + "\n";
  for (std::size_t done = 0; done < line.size();) {
    const auto n = ::write(2, line.data() + done, line.size() - done);
    if (n <= 0) return;
    done += static_cast<std::size_t>(n);
  }
}

/// Whether several processes share the work of a subcommand.
bool shared(std::string_view command) {
  for (const char* name : {"train", "linearise", "evaluate", "cache", "sample"})
    if (command == name) return true;
  return false;
}

/// For a process that is by itself: others were started with it that it would not hear of.
void require_no_other_launcher() {
  struct launcher {
    const char *variable, *name;
  };
  for (const auto& [variable, name] : {launcher{"WORLD_SIZE", "torchrun or one like it"},
                                       launcher{"SLURM_STEP_NUM_TASKS", "srun without MPI"}})
    if (const long n = number_in(variable); n > 1)
      dx::fail(variable, "=", n, ": as many processes were started by ", name,
               ", of which none would know of the others: start them with mpirun, or srun --mpi");
}

#if defined(DISTIL_WITH_MPI)

struct nothing_shown : std::streambuf {
  int overflow(int c) override { return traits_type::not_eof(c); }
  std::streamsize xsputn(const char*, std::streamsize n) override { return n; }
};

[[noreturn]] void end_all(int status, const std::string& what) {
  if (!what.empty()) say(what);
  ::alarm(10);  // where even what follows hangs
  std::this_thread::sleep_for(
      std::chrono::milliseconds(300));  // a launcher passes on what was said, then kills
  MPI_Abort(MPI_COMM_WORLD, status);
  ::_exit(status);
}

/// What several processes share.
struct several {
  dx::comm::mpi_session session;
  dx::comm::mpi ranks;
  dx::comm::mpi ending;  ///< for how each ends, while others may be in the midst of an exchange of `ranks`
  std::optional<dx::comm::mpi_watch> watch;
  int threads = 0;
  nothing_shown nowhere;
  std::streambuf *out = nullptr, *err = nullptr;

  several() {
    if (ranks.size() == 1) return;
    MPI_Comm machine;
    int here = 1;
    MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &machine);
    MPI_Comm_size(machine, &here);
    MPI_Comm_free(&machine);
    // A launcher may have bound each to cores of its own.
    cpu_set_t own;
    const int cores = static_cast<int>(std::max(1u, std::thread::hardware_concurrency())),
              bound = ::sched_getaffinity(0, sizeof own, &own) == 0 ? CPU_COUNT(&own) : cores;
    threads = std::max(1, std::min(bound, cores / here));
    watch.emplace(ranks, [this](const std::string& why) {
      // All of them may miss rank 0: the first that says so ends the others.
      std::this_thread::sleep_for(std::chrono::milliseconds(500 * std::max<dx::index>(0, ranks.rank() - 1)));
      end_all(1, why + "; all processes end, the last checkpoint stands");
    });
    if (ranks.rank() > 0) out = std::cout.rdbuf(&nowhere), err = std::cerr.rdbuf(&nowhere);
  }
  ~several() {
    if (out) std::cout.rdbuf(out), std::cerr.rdbuf(err);
  }
  std::string named(const std::string& what) const {
    return "rank " + std::to_string(ranks.rank()) + " of " + std::to_string(ranks.size()) + ": " + what;
  }

  int end(int status, const std::string& what) {
    // One that has failed waits a little whether the others have, too.
    std::mutex mutex;
    std::condition_variable ended;
    bool over = false;
    std::thread timer;
    if (status != 0)
      timer = std::thread([&] {
        std::unique_lock lock(mutex);
        if (!ended.wait_for(lock, std::chrono::milliseconds(3000 + 500 * ranks.rank()), [&] { return over; }))
          ending.stop("others work on");
      });
    std::vector<std::int64_t> statuses, texts;
    bool together = true;
    try {
      statuses = dx::comm::of_all(ending, status);
      texts = dx::comm::of_all(ending, static_cast<std::int64_t>(std::hash<std::string>()(what)));
    } catch (const dx::comm::communication_error&) {
      together = false;
    }
    if (timer.joinable()) {
      {
        const std::scoped_lock lock(mutex);
        over = true;
      }
      ended.notify_all();
      timer.join();
    }
    if (!together) end_all(std::max(status, 1), named(what.empty() ? "has ended" : what));
    const auto failed = [](std::int64_t s) { return s != 0; };
    const auto first = std::find_if(statuses.begin(), statuses.end(), failed) - statuses.begin();
    const bool all_alike = std::all_of(statuses.begin(), statuses.end(), failed) &&
                           std::all_of(texts.begin(), texts.end(), [&](auto t) { return t == texts[0]; });
    if (first == ranks.rank() && !what.empty()) say(all_alike ? what : named(what));
    return static_cast<int>(*std::max_element(statuses.begin(), statuses.end()));
  }
};
std::optional<several> together;

#endif

dx::comm::any these;

}  // namespace

dx::comm::any& processes() { return these; }

int threads_each() {
#if defined(DISTIL_WITH_MPI)
  if (together) return together->threads;
#endif
  return 0;
}

process_session::process_session() {
#if defined(DISTIL_WITH_MPI)
  // Not where nothing has launched it: MPI takes its time to begin.
  if (launched() == 0 && !std::getenv("PMI_RANK") && !std::getenv("PMIX_RANK")) return;
  together.emplace();
  these = dx::comm::any(together->ranks);
#endif
}

void process_session::check(std::string_view command) const {
  const dx::index started = std::max<dx::index>(launched(), processes().size());
  dx::require(started <= 1 || shared(command), command, ": is done by one process, and ", started,
              " were started");
#if defined(DISTIL_WITH_MPI)
  constexpr const char* why = "the launcher is another MPI's than the one that distil was built with";
#else
  constexpr const char* why = "distil was built without MPI";
#endif
  dx::require(started == std::max<dx::index>(1, processes().size()), started,
              " processes were started of which none would know of the others: ", why);
  if (processes().size() == 1 && shared(command)) require_no_other_launcher();
}

process_session::~process_session() {
#if defined(DISTIL_WITH_MPI)
  these = {};
  together.reset();
#endif
}

int process_session::end(int status, const std::string& what) {
#if defined(DISTIL_WITH_MPI)
  if (together && together->ranks.size() > 1) return together->end(status, what);
#endif
  if (!what.empty()) say(what);
  return status;
}

}  // namespace program
