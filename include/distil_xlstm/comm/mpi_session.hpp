#pragma once

#include <distil_xlstm/comm/communication_error.hpp>
#include <distil_xlstm/comm/mpi.hpp>

namespace distil_xlstm::comm {

/// MPI from its initialisation to its end, once a process; several threads may call it. What was made of it must be
/// gone before. Throws `communication_error` where the implementation does not let several threads in.
class mpi_session {
 public:
  mpi_session() {
    int allowed = 0;
    if (MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &allowed) != MPI_SUCCESS)
      throw communication_error("MPI cannot be initialised");
    if (allowed < MPI_THREAD_MULTIPLE) {
      MPI_Finalize();
      throw communication_error("this MPI lets one thread in only (MPI_THREAD_MULTIPLE is not there)");
    }
  }
  mpi_session(const mpi_session&) = delete;
  mpi_session& operator=(const mpi_session&) = delete;
  ~mpi_session() { MPI_Finalize(); }
};

}  // namespace distil_xlstm::comm
