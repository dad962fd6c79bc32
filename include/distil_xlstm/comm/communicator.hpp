#pragma once

#include <concepts>
#include <cstdint>
#include <span>

#include <distil_xlstm/comm/memory.hpp>
#include <distil_xlstm/core/extent.hpp>

namespace distil_xlstm {

/// Processes that work together, ranks 0 .. size() - 1, as one of them sees it. All of them make the same calls in the
/// same order, with the same sizes; pointers are each one's own, of the memory `where`.
///
/// Minimal definition, for a communicator `c`:
///
///     c.rank(), c.size()
///     c.recordable()                       whether what is asked of it between the recording of a device's work
///                                          (device/captured_graph.hpp) is done again where that is launched
///     c.sum(where, p, n)                   p[i] <- ((p_0[i] + p_1[i]) + p_2[i]) + ..., p_r being rank r's; double,
///                                          float or std::int64_t
///     c.broadcast(where, p, bytes, root)   p <- root's
///     c.all_gather(where, p, starts)       bytes starts[r] .. starts[r + 1] - 1 of p <- rank r's; size() + 1 starts
///     c.all_gather(where, p, each)         the same of parts of one size: bytes r each .. (r + 1) each - 1
///     c.barrier()                          no rank leaves before all have come
///
/// Errors: `comm::communication_error`, after which the ranks do not agree any more on what was exchanged.
///
/// Laws (testing/check_communicator.hpp): every call gives what its formula gives, bit for bit, and so the same on all
/// ranks and whenever it is made again; it touches nothing else.
/// Models: comm::single, comm::mpi (comm/mpi.hpp, CMake target distil_xlstm::mpi), comm::tcp (comm/tcp.hpp), comm::nccl
/// of GPUs (comm/nccl.cuh, CMake target distil_xlstm::nccl), comm::any.
template <class C>
concept Communicator = requires(C c, const C k, comm::memory where, double* d, float* f, std::int64_t* i,
                                void* p, std::span<const index> starts, index n) {
  { k.rank() } -> std::convertible_to<index>;
  { k.size() } -> std::convertible_to<index>;
  { k.recordable() } -> std::convertible_to<bool>;
  c.sum(where, d, n), c.sum(where, f, n), c.sum(where, i, n);
  c.broadcast(where, p, n, n);
  c.all_gather(where, p, starts), c.all_gather(where, p, n);
  c.barrier();
};

namespace comm {

/// Communicators whose sums can go on beside a device's work: what was asked of the device before is summed, what is
/// asked of it next does not wait for that, until `join`.
template <class C>
concept SumsBeside = requires(C c, memory where, double* d, float* f, index n) {
  c.sum_beside(where, d, n), c.sum_beside(where, f, n);
  c.join(where);
};

/// As `SumsBeside` says; of another communicator the sum at once.
template <class C, class T>
void sum_beside(C& ranks, memory where, T* p, index n) {
  if constexpr (SumsBeside<C>)
    ranks.sum_beside(where, p, n);
  else
    ranks.sum(where, p, n);
}
/// What is asked of the device from now on comes after all such sums.
template <class C>
void join(C& ranks, memory where) {
  if constexpr (SumsBeside<C>) ranks.join(where);
}

}  // namespace comm

}  // namespace distil_xlstm
