#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <distil_xlstm/comm/mpi.hpp>
#include <distil_xlstm/comm/watch.hpp>
#include <distil_xlstm/core/extent.hpp>

namespace distil_xlstm::comm {

/// Signs of life between the processes of MPI, apart from what they exchange.
class mpi_signs : public sign_channel {
 public:
  /// Of all processes of `world`, which all make it.
  explicit mpi_signs(MPI_Comm world = MPI_COMM_WORLD) {
    int size = 0;
    MPI_Comm_dup(world, &comm_);
    MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN);
    MPI_Comm_size(comm_, &size);
    sent_.resize(static_cast<std::size_t>(size));
  }
  ~mpi_signs() override { MPI_Comm_free(&comm_); }

  /// @{ As `sign_channel` says.
  bool post(index to, sign_of_life said) override {
    if (!posted(to)) return false;
    message& m = sent_[static_cast<std::size_t>(to)];
    m.said = said;
    if (MPI_Isend(&m.said, sizeof m.said, MPI_BYTE, static_cast<int>(to), 0, comm_, &m.sending) != MPI_SUCCESS)
      m.sending = MPI_REQUEST_NULL;
    return true;
  }
  bool take(index from, sign_of_life& said) override {
    int there = 0;
    return MPI_Iprobe(static_cast<int>(from), 0, comm_, &there, MPI_STATUS_IGNORE) == MPI_SUCCESS && there &&
           MPI_Recv(&said, sizeof said, MPI_BYTE, static_cast<int>(from), 0, comm_, MPI_STATUS_IGNORE) ==
               MPI_SUCCESS;
  }
  bool posted(index to) override {
    message& m = sent_[static_cast<std::size_t>(to)];
    int sent = 1;
    if (m.sending != MPI_REQUEST_NULL && MPI_Test(&m.sending, &sent, MPI_STATUS_IGNORE) != MPI_SUCCESS)
      sent = 0;
    return sent;
  }
  bool closed(index) const override { return false; }
  /// @}

 private:
  struct message {
    sign_of_life said{};
    MPI_Request sending = MPI_REQUEST_NULL;
  };
  MPI_Comm comm_ = MPI_COMM_NULL;
  std::vector<message> sent_;
};

/// A watch over the processes of MPI.
class mpi_watch : public watch {
 public:
  /// All ranks make it, and end it. Refers to `ranks`.
  mpi_watch(const mpi& ranks, std::function<void(const std::string&)> on_fault, watch_patience limits = {},
            MPI_Comm world = MPI_COMM_WORLD)
      : watch(ranks.progress(), ranks.rank(), ranks.size(), std::make_unique<mpi_signs>(world),
              std::move(on_fault), limits) {}
};

}  // namespace distil_xlstm::comm
