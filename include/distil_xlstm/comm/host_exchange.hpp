#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include <distil_xlstm/comm/communication_error.hpp>
#include <distil_xlstm/comm/communicator.hpp>
#include <distil_xlstm/comm/memory.hpp>
#include <distil_xlstm/comm/progress.hpp>
#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/core/extent.hpp>

namespace distil_xlstm::comm {

/// How much is exchanged at once, in bytes.
struct message_sizes {
  index sum = index{8} << 20;       ///< a bucket of a sum, which as much memory is kept for
  index other = index{1} << 30;     ///< a message of anything else
  index at_once = index{16} << 10;  ///< of MPI: sums up to this go to every rank whole: one exchange, not two
};

/// What communicators share that exchange what lies in the host's memory: large ones go in parts, and of a device's
/// memory a part at a time goes through the host's. `Derived` has rank() and size(), and of the host's memory
///
///     sum_bucket(p, n)              of at most sizes().sum bytes, of each type that a communicator sums
///     send_all(p, bytes, root)      p <- root's, at most sizes().other bytes
///     gather_all(p, start)          bytes start(r) - start(0) .. start(r + 1) - start(0) - 1 of p <- rank r's, at most
///                                   sizes().other bytes in all
///
/// which wait for others as long as a `waiting` lives, and look at `throw_if_stopped` meanwhile.
template <class Derived>
class host_exchange {
 public:
  host_exchange(const host_exchange&) = delete;
  host_exchange& operator=(const host_exchange&) = delete;

  /// @name What every communicator has
  /// @{

  /// As the concept `Communicator` says.
  static constexpr bool recordable() { return false; }
  /// As the concept `Communicator` says.
  template <class T>
  void sum(memory where, T* p, index n) {
    if (self().size() == 1) return;
    constexpr auto each = static_cast<index>(sizeof(T));
    progress_.together = true;
    in_parts(where, p, n * each, sizes_.sum / each * each, true, true,
             [&](void* here, index bytes) { self().sum_bucket(static_cast<T*>(here), bytes / each); });
    progress_.together = false;
  }
  /// As the concept `Communicator` says.
  void broadcast(memory where, void* p, index bytes, index root) {
    if (self().size() == 1) return;
    const bool mine = self().rank() == root;
    in_parts(where, p, bytes, where.host() ? sizes_.other : sizes_.sum, mine, !mine,
             [&](void* here, index n) { self().send_all(here, n, root); });
  }
  /// As the concept `Communicator` says.
  void all_gather(memory where, void* p, std::span<const index> starts) {
    require(std::ssize(starts) == self().size() + 1, "all_gather: ", std::ssize(starts), " offsets for ",
            self().size(), " ranks");
    gather(where, p, [&](index r) { return starts[static_cast<std::size_t>(r)]; });
  }
  /// As the concept `Communicator` says.
  void all_gather(memory where, void* p, index each) {
    gather(where, p, [&](index r) { return r * each; });
  }
  /// As the concept `Communicator` says.
  void barrier() {
    std::int64_t none = 0;
    if (self().size() > 1) self().sum_bucket(&none, 1);
  }
  /// @}

  /// For another thread to look at, as long as this lives.
  comm::progress& progress() const { return progress_; }
  /// What waits for other ranks, now or later, throws `communication_error` with `why`. Any thread may call it.
  void stop(const std::string& why) {
    const std::scoped_lock lock(mutex_);
    why_ = why, stopped_ = true;
  }

 protected:
  /// @cond
  explicit host_exchange(message_sizes sizes) : sizes_(sizes) {
    require(sizes.sum >= 4096 && sizes.other > 0 && sizes.other <= index{1} << 30 &&
                sizes.sum <= index{1} << 30 && sizes.at_once <= sizes.sum,
            "communicator: messages of ", sizes.sum, " and ", sizes.other, " bytes are not possible");
    work_began_ = now();
  }
  ~host_exchange() = default;
  const message_sizes& sizes() const { return sizes_; }

  /// The time in which this rank waits for others, for a watch to see.
  class waiting {
   public:
    explicit waiting(host_exchange& of) : of_(of) {
      const auto began = now();
      of.progress_.calls.fetch_add(1), of.progress_.worked = began - of.work_began_,
                                       of.progress_.waits_since = began;
    }
    waiting(const waiting&) = delete;
    waiting& operator=(const waiting&) = delete;
    ~waiting() { of_.progress_.waits_since = 0, of_.work_began_ = now(); }

   private:
    host_exchange& of_;
  };
  void throw_if_stopped() {
    if (!stopped_) return;
    const std::scoped_lock lock(mutex_);
    throw communication_error(why_);
  }
  /// Memory for n numbers of others.
  template <class T>
  T* received(index n) {
    const auto bytes = static_cast<std::size_t>(n) * sizeof(T);
    if (received_.size() < bytes) received_.resize(bytes);
    return reinterpret_cast<T*>(received_.data());
  }
  /// p <- p + more.
  template <class T>
  static void add(T* p, const T* more, index n) {
    for (index i = 0; i < n; ++i) p[i] += more[i];
  }
  /// @endcond

 private:
  Derived& self() { return static_cast<Derived&>(*this); }
  static comm::progress::clock::rep now() { return comm::progress::clock::now().time_since_epoch().count(); }

  /// use(here, n) for p part by part, where a device's memory is downloaded before and uploaded after, as far as asked.
  template <class Use>
  void in_parts(memory where, void* p, index bytes, index most, bool reads, bool writes, const Use& use) {
    for (index first = 0; first < bytes; first += most) {
      const index n = std::min(most, bytes - first);
      void *there = static_cast<std::byte*>(p) + first, *here = there;
      if (!where.host()) {
        if (std::ssize(staged_) < n) staged_.resize(static_cast<std::size_t>(n));
        here = staged_.data();
        if (reads) where.download(here, there, n);
      }
      use(here, n);
      if (!where.host() && writes) where.upload(there, here, n);
    }
  }
  /// Rank r's part is bytes start(r) .. start(r + 1) - 1.
  template <class Start>
  void gather(memory where, void* p, const Start& start) {
    const index size = self().size();
    if (size == 1) return;
    auto* at = static_cast<std::byte*>(p);
    if (where.host() && start(size) - start(0) <= sizes_.other) return self().gather_all(at + start(0), start);
    for (index r = 0; r < size; ++r) broadcast(where, at + start(r), start(r + 1) - start(r), r);
  }

  message_sizes sizes_;
  std::vector<std::byte> staged_, received_;
  mutable comm::progress progress_;
  comm::progress::clock::rep work_began_ = 0;
  std::atomic<bool> stopped_{false};
  std::mutex mutex_;
  std::string why_;
};

}  // namespace distil_xlstm::comm
