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
#include <chrono>
#include <cstddef>
#include <string>
#include <thread>
#include <vector>

#include <distil_xlstm/comm/communication_error.hpp>
#include <distil_xlstm/comm/host_exchange.hpp>
#include <distil_xlstm/core/extent.hpp>

namespace distil_xlstm::comm {

/// The processes that an MPI launcher (mpirun, mpiexec, srun) has started. Numbers are summed in the order of ranks,
/// bucket by bucket: each rank sums a slice of a bucket and gives it to all, so that all have the same bits, whatever
/// the implementation's own sums do. Of a device's memory a bucket at a time goes through the host's.
///
/// Nothing but calls of MPI 3 is used. MPI is initialised (comm/mpi_session.hpp) as long as this lives; one thread at a
/// time uses it. After a `communication_error` the process can but end by MPI_Abort.
class mpi : public host_exchange<mpi> {
 public:
  /// Of all processes of `world`, which all make it.
  explicit mpi(MPI_Comm world = MPI_COMM_WORLD, message_sizes sizes = {}) : host_exchange(sizes) {
    check(MPI_Comm_dup(world, &comm_), "MPI_Comm_dup");
    check(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
    check(MPI_Comm_rank(comm_, &rank_), "MPI_Comm_rank");
    check(MPI_Comm_size(comm_, &size_), "MPI_Comm_size");
    counts_.resize(static_cast<std::size_t>(size_)), offsets_ = counts_, own_ = counts_, places_ = counts_;
  }
  ~mpi() {
    int over = 0;
    if (MPI_Finalized(&over) == MPI_SUCCESS && !over) MPI_Comm_free(&comm_);
  }

  /// @name What every communicator has
  /// @{

  /// As the concept `Communicator` says.
  index rank() const { return rank_; }
  index size() const { return size_; }
  void barrier() {
    MPI_Request request;
    check(MPI_Ibarrier(comm_, &request), "MPI_Ibarrier");
    wait(request, "MPI_Ibarrier");
  }
  /// @}

 private:
  friend class host_exchange<mpi>;

  static void check(int code, const char* call) {
    if (code == MPI_SUCCESS) return;
    char text[MPI_MAX_ERROR_STRING];
    int n = 0;
    if (MPI_Error_string(code, text, &n) != MPI_SUCCESS) n = 0;
    throw communication_error(std::string(call) + ": " + std::string(text, static_cast<std::size_t>(n)));
  }

  /// Looks again and again: a blocking call could not be ended where a rank never comes.
  void wait(MPI_Request& request, const char* call) {
    const waiting counted(*this);
    for (int looks = 0;; ++looks) {
      int done = 0;
      check(MPI_Test(&request, &done, MPI_STATUS_IGNORE), call);
      if (done) break;
      throw_if_stopped();
      // Ranks may share cores: who waits gives way, at first without losing time.
      if (looks < 5000)
        std::this_thread::yield();
      else
        std::this_thread::sleep_for(std::chrono::microseconds(looks < 20000 ? 20 : 200));
    }
  }

  void send_all(void* p, index bytes, index root) {
    MPI_Request request;
    check(MPI_Ibcast(p, static_cast<int>(bytes), MPI_BYTE, static_cast<int>(root), comm_, &request),
          "MPI_Ibcast");
    wait(request, "MPI_Ibcast");
  }
  template <class Start>
  void gather_all(void* p, const Start& start) {
    for (index r = 0; r < size_; ++r) {
      const auto i = static_cast<std::size_t>(r);
      counts_[i] = static_cast<int>(start(r + 1) - start(r)),
      offsets_[i] = static_cast<int>(start(r) - start(0));
    }
    gather_in_place(p);
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
    constexpr auto each = static_cast<index>(sizeof(T));
    if (n * each <= sizes().at_once) {
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
  }
  /// to <- the sum of the ranks' n numbers, in their order.
  template <class T>
  void add_up(const T* all, index n, T* to) const {
    std::copy(all, all + n, to);
    for (index r = 1; r < size_; ++r) add(to, all + r * n, n);
  }

  MPI_Comm comm_ = MPI_COMM_NULL;
  int rank_ = 0, size_ = 1;
  std::vector<int> counts_, offsets_, own_, places_;
};

}  // namespace distil_xlstm::comm
