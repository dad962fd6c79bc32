#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <distil_xlstm/comm/mpi.hpp>

namespace distil_xlstm::comm {

/// Seconds after which a rank counts as lost.
struct mpi_patience {
  double beat = 1;      ///< between signs of life
  double silence = 30;  ///< without one
  /// For which others wait in a sum, beside four times what they worked before it: ranks come to it after work of one
  /// size. Elsewhere one may work alone, while others wait for it however long.
  double waiting = 45;
  double end = 10;  ///< in which all say that they end
};

/// Watches that every rank lives and comes to what the others wait for: a thread of each rank and rank 0's tell each other
/// so. A process that has died, is stopped or cannot be reached falls silent; one whose main thread hangs does not come.
/// `on_fault` is called once, from that thread, with a sentence that names the rank: it ends the process (MPI_Abort), or
/// lets the caller's thread throw (mpi::stop).
class mpi_watch {
 public:
  /// All ranks make it, and end it. Refers to `ranks`.
  mpi_watch(const mpi& ranks, std::function<void(const std::string&)> on_fault, mpi_patience limits = {},
            MPI_Comm world = MPI_COMM_WORLD)
      : ranks_(&ranks), on_fault_(std::move(on_fault)), limits_(limits) {
    MPI_Comm_dup(world, &comm_);
    MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN);
    for (index r = 0; r < ranks.size(); ++r)
      if ((r == 0) != (ranks.rank() == 0)) peers_.push_back({static_cast<int>(r)});
    for (peer& p : peers_) p.heard = clock::now();
    thread_ = std::thread([this] { work(); });
  }
  mpi_watch(const mpi_watch&) = delete;
  mpi_watch& operator=(const mpi_watch&) = delete;
  ~mpi_watch() {
    ends_ = true;
    thread_.join();
    MPI_Comm_free(&comm_);
  }

 private:
  using clock = mpi_progress::clock;
  struct message {
    std::int64_t calls = 0, ends = 0;
  };
  struct peer {
    int rank;
    clock::time_point heard{};
    message said{}, saying{};
    MPI_Request sending = MPI_REQUEST_NULL;
  };

  void work() {
    auto beat = clock::now(), end = beat, looked = beat;
    for (bool ends = false, told = false, faulty = false;;) {
      // After a while in which this process itself was stopped the others' silence says nothing.
      if (seconds(looked) > 5)
        for (peer& p : peers_) p.heard = clock::now();
      looked = clock::now();
      listen();
      if (std::exchange(ends, ends_.load()) != ends) end = clock::now();
      if (ends) {
        if (!told) told = say(true);
        if (told && done()) return;
        if (seconds(end) > limits_.end) return;  // what has not answered by now does not any more
      } else if (seconds(beat) >= limits_.beat) {
        beat = clock::now();
        say(false);
        if (const std::string why = faulty ? std::string() : fault(); !why.empty())
          faulty = true, on_fault_(why);
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(ends ? 1 : 50));
    }
  }
  static double seconds(clock::time_point since) {
    return std::chrono::duration<double>(clock::now() - since).count();
  }

  void listen() {
    for (peer& p : peers_)
      for (int there = 1; there;) {
        there = 0;
        if (MPI_Iprobe(p.rank, 0, comm_, &there, MPI_STATUS_IGNORE) != MPI_SUCCESS || !there) break;
        if (MPI_Recv(&p.said, sizeof(message), MPI_BYTE, p.rank, 0, comm_, MPI_STATUS_IGNORE) != MPI_SUCCESS)
          break;
        p.heard = clock::now();
      }
  }
  /// False where a peer has not taken the last message yet: it gets the next one.
  bool say(bool ends) {
    bool all = true;
    for (peer& p : peers_) {
      int sent = 1;
      if (p.saying.ends) continue;
      if (p.sending != MPI_REQUEST_NULL && MPI_Test(&p.sending, &sent, MPI_STATUS_IGNORE) != MPI_SUCCESS)
        sent = 0;
      if (!sent) {
        all = false;
        continue;
      }
      p.saying = {ranks_->progress().calls, ends};
      if (MPI_Isend(&p.saying, sizeof(message), MPI_BYTE, p.rank, 0, comm_, &p.sending) != MPI_SUCCESS)
        p.sending = MPI_REQUEST_NULL;
    }
    return all;
  }
  /// All have said that they end, and know that this one does.
  bool done() {
    for (peer& p : peers_) {
      int sent = 1;
      if (p.sending != MPI_REQUEST_NULL && MPI_Test(&p.sending, &sent, MPI_STATUS_IGNORE) != MPI_SUCCESS)
        sent = 0;
      if (!sent || !p.said.ends) return false;
    }
    return true;
  }

  /// Who is lost, and how; empty: nobody.
  std::string fault() const {
    const auto named = [&](const peer& p) {
      return "rank " + std::to_string(p.rank) + " of " + std::to_string(ranks_->size());
    };
    for (const peer& p : peers_)
      if (!p.said.ends && seconds(p.heard) > limits_.silence)
        return named(p) + " has given no sign of life for " +
               std::to_string(static_cast<int>(seconds(p.heard))) +
               " s: its process is stopped or gone, or its machine cannot be reached";
    const mpi_progress& own = ranks_->progress();
    const clock::rep since = own.waits_since, worked = own.worked;
    const std::int64_t calls = own.calls;
    if (since == 0 || !own.together) return {};
    const auto in_seconds = [](clock::rep x) {
      return std::chrono::duration<double>(clock::duration(x)).count();
    };
    const double waited = seconds(clock::time_point(clock::duration(since)));
    if (waited <= limits_.waiting + 4 * in_seconds(worked)) return {};
    for (const peer& p : peers_)
      if (p.said.calls < calls)
        return named(p) + " has not come for " + std::to_string(static_cast<int>(waited)) +
               " s to a sum that the others wait in: it hangs";
    return {};
  }

  const mpi* ranks_;
  std::function<void(const std::string&)> on_fault_;
  mpi_patience limits_;
  MPI_Comm comm_ = MPI_COMM_NULL;
  std::vector<peer> peers_;
  std::atomic<bool> ends_{false};
  std::thread thread_;
};

}  // namespace distil_xlstm::comm
