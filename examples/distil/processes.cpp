#include "processes.hpp"

#include <signal.h>
#if defined(__linux__)
#include <sys/prctl.h>
#endif
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <iostream>
#include <memory>
#include <mutex>
#include <optional>
#include <streambuf>
#include <thread>
#include <utility>
#include <vector>

#include <distil_xlstm/comm/agree.hpp>
#include <distil_xlstm/comm/tcp.hpp>
#include <distil_xlstm/comm/watch.hpp>
#include <distil_xlstm/device/cpu/usable_cores.hpp>
#if defined(DISTIL_WITH_MPI)
#include <distil_xlstm/comm/mpi_session.hpp>
#include <distil_xlstm/comm/mpi_watch.hpp>
#endif

#include "gpu_ranks.hpp"
#include "launch.hpp"

namespace program {

std::string what_stands(std::string_view command) {
  const bool trains = command == "train" || command == "linearise";
  return std::string("; all processes end") + (trains ? ", the last checkpoint stands" : "");
}

void say(const std::string& text) {
  const std::string line = "distil: " + text + "\n";
  for (std::size_t done = 0; done < line.size();) {
    const auto n = ::write(2, line.data() + done, line.size() - done);
    if (n <= 0) return;
    done += static_cast<std::size_t>(n);
  }
}

namespace {

/// The number that the first of these environment variables holds that is set; nothing: none is.
std::optional<long> number_in(std::initializer_list<const char*> variables) {
  for (const char* name : variables)
    if (const char* text = std::getenv(name)) {
      long n = 0;
      const char* end = text + std::strlen(text);
      const auto [stop, wrong] = std::from_chars(text, end, n);
      dx::require(wrong == std::errc() && stop == end, name, "=", text, ": is no number");
      return n;
    }
  return {};
}

/// How many processes a launcher of MPI says that it has started: Open MPI's, MPICH's and those that are like it.
long launched_by_mpi() {
  return std::max(number_in({"OMPI_COMM_WORLD_SIZE"}).value_or(0), number_in({"PMI_SIZE"}).value_or(0));
}

/// Whether several processes share the work of a subcommand.
bool shared_out(std::string_view command) {
  for (const char* name : {"train", "linearise", "evaluate", "cache", "sample"})
    if (command == name) return true;
  return false;
}

/// What tells a process in its environment which of how many it is, and where rank 0 is: torchrun and its like by their
/// names, srun by its own beside MASTER_ADDR.
struct by_environment {
  const char *size, *rank;
};
constexpr by_environment environments[] = {{"WORLD_SIZE", "RANK"}, {"SLURM_STEP_NUM_TASKS", "SLURM_PROCID"}};

/// Where this process's ranks meet, if there are several; nothing: it is by itself. Throws `error` where there are
/// several, and what one must know of the others is missing.
std::optional<dx::comm::tcp_place> meeting_place(std::string_view command) {
  for (const auto& [size, rank] : environments) {
    const auto n = number_in({size});
    if (!n || *n <= 1) continue;
    const bool slurm = size != environments[0].size;
    const auto mine = number_in({rank});
    const char* host = std::getenv("MASTER_ADDR");
    if (!shared_out(command) && !(mine && host)) return {};
    if (!host && slurm && number_in({"SLURM_STEP_NUM_NODES"}) == 1) host = "127.0.0.1";
    dx::require(
        mine && host, size, "=", *n,
        ": as many processes were started, of which none would know of the others: ",
        mine ? "MASTER_ADDR" : rank,
        " is not set; start them with mpirun, torchrun --no-python, srun --mpi, or with MASTER_ADDR and "
        "MASTER_PORT in the environment");
    dx::comm::tcp_place place;
    place.rank = *mine, place.size = *n, place.host = host;
    place.port = static_cast<int>(number_in({"MASTER_PORT"}).value_or(place.port));
    if (std::getenv(launched_by)) place.ports = 1;  // there rank 0 listens already
    // There torchrun itself listens.
    const char* own = std::getenv("TORCHELASTIC_USE_AGENT_STORE");
    const int first = own && std::strcmp(own, "True") == 0 ? 1 : 0;
    dx::require(place.port > 0 && place.port + first + place.ports <= 65536, "MASTER_PORT=", place.port,
                ": is not possible");
    // Of a run whose port is near this one's, where nothing else has a name for it.
    place.run = "port=" + std::to_string(place.port) + ";";
    place.port += first;
    place.listening = static_cast<int>(number_in({listening_at}).value_or(-1));
    for (const char* name : {launched_by, "TORCHELASTIC_RUN_ID", "SLURM_JOB_ID", "SLURM_STEP_ID"})
      if (const char* text = std::getenv(name)) place.run += std::string(name) + "=" + text + ";";
    ::unsetenv(listening_at);
    return place;
  }
  return {};
}

/// How several processes are connected.
class connection {
 public:
  virtual ~connection() = default;
  virtual dx::comm::any ranks() = 0;
  virtual dx::comm::progress& progress() = 0;
  /// For how each ends, while others may be in the midst of an exchange of `ranks`.
  virtual dx::comm::any ending() = 0;
  /// What waits in `ending` throws.
  virtual void stop_ending() = 0;
  virtual std::unique_ptr<dx::comm::sign_channel> signs() = 0;
  /// Ends this process; the others are told already, or will be by what connects them.
  [[noreturn]] virtual void abort(int status) = 0;

  int here = 0, rank_here = 0;  ///< processes of this machine, and which of them this is
};

class tcp_connection final : public connection {
 public:
  explicit tcp_connection(const dx::comm::tcp_place& place)
      : session_(place), ranks_(session_), ending_(session_, dx::comm::tcp_session::use::ending) {
    const bool one_machine = place.host == "127.0.0.1" || place.host == "localhost";
    here = static_cast<int>(number_in({"LOCAL_WORLD_SIZE"}).value_or(one_machine ? place.size : 1));
    rank_here =
        static_cast<int>(number_in({"LOCAL_RANK", "SLURM_LOCALID"}).value_or(one_machine ? place.rank : 0));
  }
  dx::comm::any ranks() override { return ranks_; }
  dx::comm::progress& progress() override { return ranks_.progress(); }
  dx::comm::any ending() override { return ending_; }
  void stop_ending() override { ending_.stop("others work on"); }
  std::unique_ptr<dx::comm::sign_channel> signs() override {
    return std::make_unique<dx::comm::tcp_signs>(session_);
  }
  void abort(int status) override { ::_exit(status); }

 private:
  dx::comm::tcp_session session_;
  dx::comm::tcp ranks_, ending_;
};

#if defined(DISTIL_WITH_MPI)
class mpi_connection final : public connection {
 public:
  mpi_connection() {
    MPI_Comm machine;
    MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &machine);
    MPI_Comm_size(machine, &here), MPI_Comm_rank(machine, &rank_here);
    MPI_Comm_free(&machine);
  }
  dx::comm::any ranks() override { return ranks_; }
  dx::comm::progress& progress() override { return ranks_.progress(); }
  dx::comm::any ending() override { return ending_; }
  void stop_ending() override { ending_.stop("others work on"); }
  std::unique_ptr<dx::comm::sign_channel> signs() override { return std::make_unique<dx::comm::mpi_signs>(); }
  void abort(int status) override {
    MPI_Abort(MPI_COMM_WORLD, status);
    ::_exit(status);
  }

 private:
  dx::comm::mpi_session session_;
  dx::comm::mpi ranks_, ending_;
};
#endif

struct nothing_shown : std::streambuf {
  int overflow(int c) override { return traits_type::not_eof(c); }
  std::streamsize xsputn(const char*, std::streamsize n) override { return n; }
};

/// What several processes share.
class several {
 public:
  several(std::unique_ptr<connection> connected, std::string_view command)
      : connection_(std::move(connected)), after_fault_(what_stands(command)) {
    ranks_ = connection_->ranks();
#if defined(DISTIL_WITH_NCCL)
    gpus_ = make_gpu_ranks(ranks_, connection_->progress());
    ranks_ = gpus_->ranks();
#endif
    if (ranks_.size() == 1) return;
    // A launcher may have bound each to cores of its own.
    const int cores = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
    threads = std::max(1, std::min(dx::device::usable_cores(), cores / std::max(1, connection_->here)));
    watch_.emplace(connection_->progress(), ranks_.rank(), ranks_.size(), connection_->signs(),
                   [this](const std::string& why) {
                     // All of them may miss rank 0: the first that says so ends the others. Where `launch` has
                     // started them rank 1 is there, and says it.
                     const auto turn = std::clamp<dx::index>(ranks_.rank() - 1, 0, 20);
                     const bool quiet = why.empty() || (turn > 0 && std::getenv(launched_by));
                     std::this_thread::sleep_for(std::chrono::milliseconds(quiet ? 1000 : 500 * turn));
                     end_all(1, quiet ? std::string() : why + after_fault_, true);
                   });
    if (ranks_.rank() > 0) out_ = std::cout.rdbuf(&nowhere_), err_ = std::cerr.rdbuf(&nowhere_);
  }
  ~several() {
    if (out_) std::cout.rdbuf(out_), std::cerr.rdbuf(err_);
  }

  dx::comm::any ranks() const { return ranks_; }
  int rank_here() const { return connection_->rank_here; }
  int threads = 0;

  int end(int status, const std::string& what) {
    // One that has failed waits a little whether the others have, too.
    std::mutex mutex;
    std::condition_variable ended;
    bool over = false;
    std::thread timer;
    if (status != 0)
      timer = std::thread([&] {
        std::unique_lock lock(mutex);
        if (!ended.wait_for(lock,
                            std::chrono::milliseconds(3000 + 500 * std::min<dx::index>(ranks_.rank(), 20)),
                            [&] { return over; }))
          connection_->stop_ending();
      });
    std::vector<std::int64_t> statuses, texts;
    bool together = true;
    try {
      auto ending = connection_->ending();
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
    if (first == ranks_.rank() && !what.empty()) say(all_alike ? what : named(what));
    return static_cast<int>(*std::max_element(statuses.begin(), statuses.end()));
  }

 private:
  std::string named(const std::string& what) const {
    return "rank " + std::to_string(ranks_.rank()) + " of " + std::to_string(ranks_.size()) + ": " + what;
  }
  /// `by_watch`: on its thread, which has told the others already.
  [[noreturn]] void end_all(int status, const std::string& what, bool by_watch = false) {
    if (!ends_.exchange(true)) {
      // Of a process that is gone `launch` says more.
      const bool told = std::getenv(launched_by) && what.find(dx::comm::gone_without_a_word) != what.npos;
      if (!what.empty() && !told) say(what);
      ::alarm(10);  // where even what follows hangs
      if (!by_watch && watch_) watch_->break_off();
      // The others are told; a launcher passes on what was said, then kills.
      std::this_thread::sleep_for(std::chrono::milliseconds(300));
      connection_->abort(status);
    }
    while (true) ::pause();  // another thread does it
  }

  std::unique_ptr<connection> connection_;
  std::string after_fault_;
  std::unique_ptr<gpu_ranks> gpus_;
  dx::comm::any ranks_;
  std::atomic<bool> ends_{false};
  nothing_shown nowhere_;
  std::streambuf *out_ = nullptr, *err_ = nullptr;
  std::optional<dx::comm::watch> watch_;
};
std::optional<several> together;
dx::comm::any these;

}  // namespace

dx::comm::any& processes() { return these; }
int threads_each() { return together ? together->threads : 0; }
int local_rank() { return together ? together->rank_here() : 0; }

process_session::process_session(std::string_view command) {
#if defined(__linux__)
  // A launcher that is killed leaves nobody behind.
  if (const auto launcher = number_in({launched_by})) {
    ::prctl(PR_SET_PDEATHSIG, SIGTERM);
    dx::require(::getppid() == *launcher, "the process that started this one is gone");
  }
#endif
#if defined(DISTIL_WITH_MPI)
  // Not where nothing has launched it: MPI takes its time to begin.
  if (!std::getenv(launched_by) &&
      (launched_by_mpi() > 0 || std::getenv("PMI_RANK") || std::getenv("PMIX_RANK"))) {
    auto connected = std::make_unique<mpi_connection>();
    if (connected->ranks().size() > 1) {
      together.emplace(std::move(connected), command);
      these = together->ranks();
      return;
    }
  }
#endif
  if (const auto place = meeting_place(command)) {
    together.emplace(std::make_unique<tcp_connection>(*place), command);
    these = together->ranks();
  }
}

void process_session::check(std::string_view command) const {
  const dx::index started = std::getenv(launched_by)
                                ? processes().size()
                                : std::max<dx::index>(launched_by_mpi(), processes().size());
  dx::require(started <= 1 || shared_out(command), command, ": is done by one process, and ", started,
              " were started");
#if defined(DISTIL_WITH_MPI)
  constexpr const char* why = "the launcher is another MPI's than the one that distil was built with";
#else
  constexpr const char* why = "distil was built without MPI";
#endif
  dx::require(started == std::max<dx::index>(1, processes().size()), started,
              " processes were started of which none would know of the others: ", why);
}

void process_session::check_alone(std::string_view command, const char* option) {
  if (!shared_out(command))
    throw usage_error(std::string(command) + ": " + option + ": it is done by one process");
  for (const auto& [size, rank] : environments)
    if (number_in({size}).value_or(0) > 1)
      throw usage_error(std::string(option) + ": " + size +
                        " says that several processes were started already");
  if (launched_by_mpi() > 1)
    throw usage_error(std::string(option) + ": MPI has started several processes already");
}

process_session::~process_session() {
  these = {};
  together.reset();
}

int process_session::end(int status, const std::string& what) {
  if (together && these.size() > 1) return together->end(status, what);
  if (!what.empty()) say(what);
  return status;
}

}  // namespace program
