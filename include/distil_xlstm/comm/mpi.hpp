#pragma once

// The C interface is enough; C++ bindings that some implementations bring beside it are not wanted.
#ifndef OMPI_SKIP_MPICXX
#define OMPI_SKIP_MPICXX 1
#endif
#ifndef MPICH_SKIP_MPICXX
#define MPICH_SKIP_MPICXX 1
#endif
#include <mpi.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include <distil_xlstm/comm/communication_error.hpp>
#include <distil_xlstm/comm/communicator.hpp>
#include <distil_xlstm/core/error.hpp>

namespace distil_xlstm::comm {

/// How much is exchanged at once, in bytes.
struct message_sizes {
  index sum = index{8} << 20;       ///< a bucket of a sum, which as much memory is kept for
  index other = index{1} << 30;     ///< a message of anything else
  index at_once = index{16} << 10;  ///< sums up to this go to every rank whole: one exchange, not two
};

/// What a rank has called, as another thread may look at it (comm/mpi_watch.hpp).
struct mpi_progress {
  using clock = std::chrono::steady_clock;  ///< what times are of
  std::atomic<std::int64_t> calls{0};       ///< exchanges begun
  std::atomic<clock::rep> waits_since{0};   ///< for others; 0: it does not wait
  std::atomic<clock::rep> worked{0};        ///< how long, before it began to wait
  std::atomic<bool> together{false};        ///< in a sum, to which ranks come after work of one size
};

/// The processes that an MPI launcher (mpirun, mpiexec, srun) has started. Numbers are summed in the order of ranks, bucket
/// by bucket: each rank sums a slice of a bucket and gives it to all, so that all have the same bits, whatever the
/// implementation's own sums do. Of a device's memory a bucket at a time goes through the host's.
///
/// Nothing but calls of MPI 3 is used. MPI is initialised (comm/mpi_session.hpp) as long as this lives; one thread at a
/// time uses it. After a `communication_error` the process can but end by MPI_Abort.
class mpi {
 public:
  /// Of all processes of `world`, which all make it.
  explicit mpi(MPI_Comm world = MPI_COMM_WORLD, message_sizes sizes = {}) : sizes_(sizes) {
    require(sizes.sum >= 4096 && sizes.other > 0 && sizes.other <= index{1} << 30 &&
                sizes.sum <= index{1} << 30 && sizes.at_once <= sizes.sum,
            "mpi: messages of ", sizes.sum, " and ", sizes.other, " bytes are not possible");
    check(MPI_Comm_dup(world, &comm_), "MPI_Comm_dup");
    check(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
    check(MPI_Comm_rank(comm_, &rank_), "MPI_Comm_rank");
    check(MPI_Comm_size(comm_, &size_), "MPI_Comm_size");
    counts_.resize(static_cast<std::size_t>(size_)), offsets_ = counts_, own_ = counts_, places_ = counts_;
    work_began_ = now();
  }
  mpi(const mpi&) = delete;
  mpi& operator=(const mpi&) = delete;
  ~mpi() {
    int over = 0;
    if (MPI_Finalized(&over) == MPI_SUCCESS && !over) MPI_Comm_free(&comm_);
  }

  /// @name What every communicator has
  /// @{

  /// As the concept `Communicator` says.
  index rank() const { return rank_; }
  index size() const { return size_; }
  static constexpr bool recordable() { return false; }

  template <class T>
  void sum(memory where, T* p, index n) {
    if (size_ == 1) return;
    const index most = sizes_.sum / static_cast<index>(sizeof(T));
    for (index first = 0; first < n; first += most) {
      const index m = std::min(most, n - first), bytes = m * static_cast<index>(sizeof(T));
      T* here = p + first;
      if (!where.host()) {
        here = static_cast<T*>(staged(bytes));
        where.download(here, p + first, bytes);
      }
      sum_bucket(here, m);
      if (!where.host()) where.upload(p + first, here, bytes);
    }
  }

  void broadcast(memory where, void* p, index bytes, index root) {
    if (size_ == 1) return;
    const index most = where.host() ? sizes_.other : sizes_.sum;
    for (index first = 0; first < bytes; first += most) {
      const index n = std::min(most, bytes - first);
      void *there = static_cast<std::byte*>(p) + first, *here = where.host() ? there : staged(n);
      if (!where.host() && rank_ == root) where.download(here, there, n);
      MPI_Request request;
      check(MPI_Ibcast(here, static_cast<int>(n), MPI_BYTE, static_cast<int>(root), comm_, &request),
            "MPI_Ibcast");
      wait(request, "MPI_Ibcast");
      if (!where.host() && rank_ != root) where.upload(there, here, n);
    }
  }

  void all_gather(memory where, void* p, std::span<const index> starts) {
    require(std::ssize(starts) == size_ + 1, "mpi: ", std::ssize(starts), " offsets for ", size_, " ranks");
    gather_parts(where, p, [&](index r) { return starts[static_cast<std::size_t>(r)]; });
  }
  void all_gather(memory where, void* p, index each) {
    gather_parts(where, p, [&](index r) { return r * each; });
  }

  void barrier() {
    MPI_Request request;
    check(MPI_Ibarrier(comm_, &request), "MPI_Ibarrier");
    wait(request, "MPI_Ibarrier");
  }
  /// @}

  /// For another thread to look at, as long as this lives.
  const mpi_progress& progress() const { return progress_; }
  /// What waits for other ranks, now or later, throws `communication_error` with `why`. Any thread may call it.
  void stop(const std::string& why) {
    const std::scoped_lock lock(mutex_);
    why_ = why, stopped_ = true;
  }

 private:
  using clock = mpi_progress::clock;
  static clock::rep now() { return clock::now().time_since_epoch().count(); }

  static void check(int code, const char* call) {
    if (code == MPI_SUCCESS) return;
    char text[MPI_MAX_ERROR_STRING];
    int n = 0;
    if (MPI_Error_string(code, text, &n) != MPI_SUCCESS) n = 0;
    throw communication_error(std::string(call) + ": " + std::string(text, static_cast<std::size_t>(n)));
  }

  /// Looks again and again: a blocking call could not be ended where a rank never comes.
  void wait(MPI_Request& request, const char* call) {
    const clock::rep began = now();
    progress_.calls.fetch_add(1), progress_.worked = began - work_began_, progress_.waits_since = began;
    for (int looks = 0;; ++looks) {
      int done = 0;
      check(MPI_Test(&request, &done, MPI_STATUS_IGNORE), call);
      if (done) break;
      if (stopped_) {
        const std::scoped_lock lock(mutex_);
        throw communication_error(why_);
      }
      // Ranks may share cores: who waits gives way, at first without losing time.
      if (looks < 5000)
        std::this_thread::yield();
      else
        std::this_thread::sleep_for(std::chrono::microseconds(looks < 20000 ? 20 : 200));
    }
    progress_.waits_since = 0, work_began_ = now();
  }

  void* staged(index bytes) {
    if (std::ssize(staged_) < bytes) staged_.resize(static_cast<std::size_t>(bytes));
    return staged_.data();
  }
  template <class T>
  T* received(index n) {
    const auto bytes = static_cast<std::size_t>(n) * sizeof(T);
    if (received_.size() < bytes) received_.resize(bytes);
    return reinterpret_cast<T*>(received_.data());
  }

  /// Rank r's part is bytes start(r) .. start(r + 1) - 1.
  template <class Start>
  void gather_parts(memory where, void* p, const Start& start) {
    if (size_ == 1) return;
    auto* at = static_cast<std::byte*>(p);
    const index first = start(0), bytes = start(size_) - first;
    if (!where.host() || bytes > sizes_.other) {
      for (index r = 0; r < size_; ++r) broadcast(where, at + start(r), start(r + 1) - start(r), r);
      return;
    }
    for (index r = 0; r < size_; ++r) {
      const auto i = static_cast<std::size_t>(r);
      counts_[i] = static_cast<int>(start(r + 1) - start(r)), offsets_[i] = static_cast<int>(start(r) - first);
    }
    gather_in_place(at + first);
  }
  void gather_in_place(void* p) {
    MPI_Request request;
    check(MPI_Iallgatherv(MPI_IN_PLACE, 0, MPI_BYTE, p, counts_.data(), offsets_.data(), MPI_BYTE, comm_,
                          &request),
          "MPI_Iallgatherv");
    wait(request, "MPI_Iallgatherv");
  }

  template <class T>
  void sum_bucket(T* p, index n) {
    progress_.together = true;
    constexpr auto each = static_cast<index>(sizeof(T));
    if (n * each <= sizes_.at_once) {
      T* all = received<T>(n * size_);
      MPI_Request request;
      const int bytes = static_cast<int>(n * each);
      check(MPI_Iallgather(p, bytes, MPI_BYTE, all, bytes, MPI_BYTE, comm_, &request), "MPI_Iallgather");
      wait(request, "MPI_Iallgather");
      add_up(all, n, p);
    } else {
      const index slice = (n + size_ - 1) / size_;
      const auto begin = [&](index r) { return std::min(r * slice, n); };
      const index first = begin(rank_), mine = begin(rank_ + 1) - first;
      T* all = received<T>(slice * size_);
      for (int r = 0; r < size_; ++r) {
        const auto i = static_cast<std::size_t>(r);
        counts_[i] = static_cast<int>((begin(r + 1) - begin(r)) * each);
        offsets_[i] = static_cast<int>(begin(r) * each);
        own_[i] = static_cast<int>(mine * each), places_[i] = static_cast<int>(r * mine * each);
      }
      MPI_Request request;
      check(MPI_Ialltoallv(p, counts_.data(), offsets_.data(), MPI_BYTE, all, own_.data(), places_.data(),
                           MPI_BYTE, comm_, &request),
            "MPI_Ialltoallv");
      wait(request, "MPI_Ialltoallv");
      add_up(all, mine, p + first);
      gather_in_place(p);
    }
    progress_.together = false;
  }
  /// to <- the sum of the ranks' n numbers, in their order.
  template <class T>
  void add_up(const T* all, index n, T* to) const {
    std::copy(all, all + n, to);
    for (index r = 1; r < size_; ++r) {
      const T* from = all + r * n;
      for (index i = 0; i < n; ++i) to[i] += from[i];
    }
  }

  MPI_Comm comm_ = MPI_COMM_NULL;
  message_sizes sizes_;
  int rank_ = 0, size_ = 1;
  std::vector<int> counts_, offsets_, own_, places_;
  std::vector<std::byte> staged_, received_;
  mpi_progress progress_;
  clock::rep work_began_ = 0;
  std::atomic<bool> stopped_{false};
  std::mutex mutex_;
  std::string why_;
};

}  // namespace distil_xlstm::comm
