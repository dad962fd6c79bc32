#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <distil_xlstm/comm/progress.hpp>
#include <distil_xlstm/core/extent.hpp>

namespace distil_xlstm::comm {

/// Seconds after which a rank counts as lost.
struct watch_patience {
  double beat = 1;      ///< between signs of life
  double silence = 30;  ///< without one
  /// For which others wait in a sum, beside four times what they worked before it: ranks come to it after work of one
  /// size. Elsewhere one may work alone, while others wait for it however long.
  double waiting = 45;
  double end = 10;  ///< in which all say that they end
};

/// The end of the message about a rank whose process is gone without having said why.
inline constexpr const char* gone_without_a_word = " has ended in the midst of it: its connection is closed";

/// What a watch tells another.
struct sign_of_life {
  std::int64_t calls = 0;  ///< exchanges begun
  std::int64_t ends =
      0;  ///< 0: it works; 1: it has no more to do; 2: it is broken off, and somebody has said why
};

/// How watches tell each other. One thread uses it.
class sign_channel {
 public:
  virtual ~sign_channel() = default;
  /// Gives rank `to` a sign; false where it has not taken the last one yet. It never waits.
  virtual bool post(index to, sign_of_life said) = 0;
  /// Takes a sign of rank `from`, if one has come.
  virtual bool take(index from, sign_of_life& said) = 0;
  /// What was posted has been taken.
  virtual bool posted(index to) = 0;
  /// No sign of rank `from` can come any more: its process is gone.
  virtual bool closed(index from) const = 0;
};

/// Watches that every rank lives and comes to what the others wait for: a thread of each rank and rank 0's tell each
/// other so. A process that has died, is stopped or cannot be reached falls silent; one whose main thread hangs does
/// not come. Where one is lost the others are told, and `on_fault` is called once, from that thread, with a sentence
/// that names the rank, or with none where another rank has broken off and said why: it ends the process, or lets the
/// caller's thread throw (`stop` of the communicator).
class watch {
 public:
  /// All of `size` ranks make it, and end it. Refers to `own`, what this rank has called.
  watch(const comm::progress& own, index rank, index size, std::unique_ptr<sign_channel> channel,
        std::function<void(const std::string&)> on_fault, watch_patience limits = {})
      : own_(&own), size_(size), channel_(std::move(channel)), on_fault_(std::move(on_fault)), limits_(limits) {
    for (index r = 0; r < size; ++r)
      if ((r == 0) != (rank == 0)) peers_.push_back({r});
    for (peer& p : peers_) p.heard = clock::now();
    thread_ = std::thread([this] { work(); });
  }
  watch(const watch&) = delete;
  watch& operator=(const watch&) = delete;
  ~watch() {
    ends_ = true;
    thread_.join();
  }
  /// From now on the others are told that this rank is broken off, and that somebody has said why: one beat later they
  /// know. Any thread may call it.
  void break_off() { broken_off_ = true; }

 private:
  using clock = comm::progress::clock;
  struct peer {
    index rank;
    clock::time_point heard{};
    sign_of_life said{};
    std::int64_t told = 0;  ///< of `ends`, last
  };

  void work() {
    auto beat = clock::now(), end = beat, looked = beat;
    for (bool ends = false, told = false, faulty = false, broken = false;;) {
      // After a while in which this process itself was stopped the others' silence says nothing.
      if (seconds(looked) > 5)
        for (peer& p : peers_) p.heard = clock::now();
      looked = clock::now();
      listen();
      if (broken_off_ && !broken) broken = say(2);
      if (const bool now = ends_; now != ends) ends = now, end = clock::now();
      if (ends) {
        if (!told) told = say(broken_off_ ? 2 : 1);
        if (told && done()) return;
        if (seconds(end) > limits_.end) return;  // what has not answered by now does not any more
      } else {
        const bool due = seconds(beat) >= limits_.beat;
        if (due) beat = clock::now(), say(broken_off_ ? 2 : 0);
        if (!faulty && (due || over())) {
          std::string why;
          if (fault(why)) {
            faulty = broken_off_ = true;
            broken = say(2);
            on_fault_(why);
          }
        }
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(ends ? 1 : 50));
    }
  }
  static double seconds(clock::time_point since) {
    return std::chrono::duration<double>(clock::now() - since).count();
  }

  void listen() {
    for (peer& p : peers_)
      while (channel_->take(p.rank, p.said)) p.heard = clock::now();
  }
  /// False where a peer has not taken the last sign yet: it gets the next one.
  bool say(std::int64_t ends) {
    bool all = true;
    for (peer& p : peers_) {
      if (p.told == ends && ends > 0) continue;
      if (channel_->post(p.rank, {own_->calls, ends}))
        p.told = ends;
      else if (!channel_->closed(p.rank))
        all = false;
    }
    return all;
  }
  /// All have said that they end, and know that this one does.
  bool done() {
    for (const peer& p : peers_)
      if (!channel_->closed(p.rank) && (!channel_->posted(p.rank) || !p.said.ends)) return false;
    return true;
  }
  /// A peer is gone, or broken off.
  bool over() const {
    for (const peer& p : peers_)
      if (p.said.ends == 2 || (!p.said.ends && channel_->closed(p.rank))) return true;
    return false;
  }

  /// Whether one is lost; why <- who, and how, unless that is said already.
  bool fault(std::string& why) const {
    for (const peer& p : peers_)
      if (p.said.ends == 2) return true;
    const auto named = [&](const peer& p) {
      return "rank " + std::to_string(p.rank) + " of " + std::to_string(size_);
    };
    for (const peer& p : peers_) {
      if (p.said.ends) continue;
      if (channel_->closed(p.rank)) {
        why = named(p) + gone_without_a_word;
        return true;
      }
      if (seconds(p.heard) > limits_.silence) {
        why = named(p) + " has given no sign of life for " +
              std::to_string(static_cast<int>(seconds(p.heard))) +
              " s: its process is stopped or gone, or its machine cannot be reached";
        return true;
      }
    }
    const clock::rep since = own_->waits_since, worked = own_->worked;
    const std::int64_t calls = own_->calls;
    if (since == 0 || !own_->together) return false;
    const auto in_seconds = [](clock::rep x) {
      return std::chrono::duration<double>(clock::duration(x)).count();
    };
    const double waited = seconds(clock::time_point(clock::duration(since)));
    if (waited <= limits_.waiting + 4 * in_seconds(worked)) return false;
    for (const peer& p : peers_)
      if (p.said.calls < calls) {
        why = named(p) + " has not come for " + std::to_string(static_cast<int>(waited)) +
              " s to a sum that the others wait in: it hangs";
        return true;
      }
    return false;
  }

  const comm::progress* own_;
  index size_;
  std::unique_ptr<sign_channel> channel_;
  std::function<void(const std::string&)> on_fault_;
  watch_patience limits_;
  std::vector<peer> peers_;
  std::atomic<bool> ends_{false}, broken_off_{false};
  std::thread thread_;
};

}  // namespace distil_xlstm::comm
