#pragma once

#include <cuda_runtime_api.h>
#include <nccl.h>

#include <algorithm>
#include <cstddef>
#include <span>
#include <string>
#include <type_traits>
#include <utility>

#include <distil_xlstm/comm/any.hpp>
#include <distil_xlstm/comm/communication_error.hpp>
#include <distil_xlstm/comm/communicator.hpp>
#include <distil_xlstm/comm/memory.hpp>
#include <distil_xlstm/comm/progress.hpp>
#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/core/extent.hpp>

namespace distil_xlstm::comm {

namespace detail {

/// to[i] <- ((all[i] + all[each + i]) + all[2 each + i]) + ..., of as many ranks.
template <class T>
__global__ void add_ranks(T* to, const T* all, index each, index n, index ranks) {
  for (index i = blockIdx.x * index{blockDim.x} + threadIdx.x; i < n; i += index{gridDim.x} * blockDim.x) {
    T sum = all[i];
    for (index r = 1; r < ranks; ++r) sum += all[r * each + i];
    to[i] = sum;
  }
}

inline void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess)
    throw communication_error(std::string("nccl: ") + what + ": " + cudaGetErrorString(status));
}

}  // namespace detail

/// GPUs, one a process, by NVIDIA's NCCL (CMake target distil_xlstm::nccl). What lies in a GPU's memory is exchanged
/// between the GPUs, on their streams and without waiting for the host; what lies in the host's memory by another
/// communicator of the same ranks, `comm::tcp` or `comm::mpi`, which gives out NCCL's id, too.
///
/// Sums are added up in the order of ranks, whatever the GPUs are connected by: of two ranks by NCCL's all-reduce, of
/// more each rank adds up its slice of a bucket, in one kernel behind the exchange, and gives it to all. It travels as
/// much as a ring's all-reduce would.
///
/// The first call for a GPU's memory, which all ranks make, starts NCCL on the GPU that is current. After a
/// `communication_error` the process can but end. What was asked of it must be done before it goes. Compiled by nvcc.
class nccl {
 public:
  /// Refers to `host`. `bucket`: bytes that are summed at once where there are more than two ranks, and the memory that
  /// is kept for them, twice; `all_reduce`: up to how many ranks NCCL's own sum is taken. Throws `communication_error`
  /// where the NCCL that is found is not one like that it was compiled with.
  template <class Host>
  explicit nccl(Host& host, index bucket = index{64} << 20, index all_reduce = 2)
      : nccl(any(host), host.progress(), bucket, all_reduce) {}
  /// The same, where `progress` is that of the communicator that `host` stands for.
  nccl(any host, comm::progress& progress, index bucket = index{64} << 20, index all_reduce = 2)
      : host_(host), progress_(&progress), bucket_(bucket), all_reduce_(all_reduce) {
    // NCCL's sum of three and more takes an order of its own.
    require(bucket >= std::max<index>(4096, 8 * host.size()) && all_reduce >= 0 && all_reduce <= 2,
            "nccl: buckets of ", bucket, " bytes, or its own sums of ", all_reduce, " ranks, are not possible");
    const int built = NCCL_VERSION_CODE, found = version();
    if (found / 10000 != built / 10000 || found < built / 100 * 100)
      throw communication_error("nccl: version " + version_text(found) + " is found, " + version_text(built) +
                                " is what this was compiled with: an older one will not do");
  }
  nccl(const nccl&) = delete;
  nccl& operator=(const nccl&) = delete;
  ~nccl() {
    if (!ranks_) return;
    ncclCommAbort(ranks_);  // waits for nobody
    for (void* p : staged_) cudaFree(p);
    cudaEventDestroy(before_), cudaEventDestroy(behind_);
    cudaStreamDestroy(side_);
  }

  /// The NCCL that is found, as NCCL_VERSION_CODE writes it.
  static int version() {
    int found = 0;
    check(ncclGetVersion(&found), "asking for its version");
    return found;
  }
  /// "2.27.3"
  static std::string version_text(int code) {
    return std::to_string(code / 10000) + "." + std::to_string(code / 100 % 100) + "." +
           std::to_string(code % 100);
  }

  /// @name What every communicator has
  /// @{

  /// As the concept `Communicator` says.
  index rank() const { return host_.rank(); }
  index size() const { return host_.size(); }
  static constexpr bool recordable() { return true; }
  template <class T>
  void sum(memory where, T* p, index n) {
    if (!begin(where)) return host_.sum(where, p, n);
    if (size() > 1) sum_on(stream_of(where), staged_[0], p, n);
  }
  void broadcast(memory where, void* p, index bytes, index root) {
    if (!begin(where)) return host_.broadcast(where, p, bytes, root);
    if (size() == 1 || bytes == 0) return;
    check(ncclBroadcast(p, p, static_cast<std::size_t>(bytes), ncclInt8, static_cast<int>(root), ranks_,
                        stream_of(where)),
          "a broadcast");
  }
  void all_gather(memory where, void* p, std::span<const index> starts) {
    require(std::ssize(starts) == size() + 1, "nccl: ", std::ssize(starts), " offsets for ", size(), " ranks");
    if (!begin(where)) return host_.all_gather(where, p, starts);
    if (size() > 1) gather(stream_of(where), p, [&](index r) { return starts[static_cast<std::size_t>(r)]; });
  }
  void all_gather(memory where, void* p, index each) {
    if (!begin(where)) return host_.all_gather(where, p, each);
    if (size() > 1) gather_even(stream_of(where), p, each);
  }
  void barrier() { begin({}), host_.barrier(); }
  /// @}

  /// @name Beside the device's work
  /// @{

  /// As `sum`, after what was asked of the device so far and beside what is asked of it next, until `join`.
  template <class T>
  void sum_beside(memory where, T* p, index n) {
    if (!begin(where)) return host_.sum(where, p, n);
    if (size() == 1) return;
    detail::check(cudaEventRecord(before_, stream_of(where)), "an event");
    detail::check(cudaStreamWaitEvent(side_, before_, 0), "waiting for an event");
    sum_on(side_, staged_[1], p, n);
    beside_ = true;
  }
  /// What is asked of the device from now on comes after the sums that went on beside it.
  void join(memory where) {
    if (!std::exchange(beside_, false)) return;
    detail::check(cudaEventRecord(behind_, side_), "an event");
    detail::check(cudaStreamWaitEvent(stream_of(where), behind_, 0), "waiting for an event");
  }
  /// @}

 private:
  static void check(ncclResult_t status, const char* what) {
    if (status == ncclSuccess) return;
    const char* more = ncclGetLastError(nullptr);
    throw communication_error(std::string("nccl: ") + what + ": " + ncclGetErrorString(status) +
                              (more && *more ? std::string(" (") + more + ")" : std::string()));
  }
  static cudaStream_t stream_of(memory where) { return static_cast<cudaStream_t>(where.stream()); }
  template <class T>
  static constexpr ncclDataType_t type_of = std::is_same_v<T, double>  ? ncclFloat64
                                            : std::is_same_v<T, float> ? ncclFloat32
                                                                       : ncclInt64;

  /// Before every call; false: it is the host's. A GPU's exchange counts as waited for until the next call: so a watch
  /// notices ranks that are late for it.
  bool begin(memory where) {
    comm::progress& p = *progress_;
    p.waits_since = 0, p.together = false;
    if (where.host() || size() == 1) return !where.host();
    start();
    p.calls.fetch_add(1), p.together = true;
    p.waits_since = comm::progress::clock::now().time_since_epoch().count();
    return true;
  }
  void start() {
    if (ranks_) return;
    ncclUniqueId id{};
    if (rank() == 0) check(ncclGetUniqueId(&id), "making an id");
    host_.broadcast({}, &id, static_cast<index>(sizeof id), 0);
    check(ncclCommInitRank(&ranks_, static_cast<int>(size()), id, static_cast<int>(rank())), "starting");
    detail::check(cudaStreamCreateWithFlags(&side_, cudaStreamNonBlocking), "making a stream");
    for (cudaEvent_t* e : {&before_, &behind_})
      detail::check(cudaEventCreateWithFlags(e, cudaEventDisableTiming), "making an event");
    if (size() > all_reduce_)
      for (void*& p : staged_)
        detail::check(cudaMalloc(&p, static_cast<std::size_t>(bucket_ + 8 * size())), "memory for buckets");
  }

  template <class T>
  void sum_on(cudaStream_t stream, void* staged, T* p, index n) {
    if (size() <= all_reduce_) {
      if (n > 0)
        check(ncclAllReduce(p, p, static_cast<std::size_t>(n), type_of<T>, ncclSum, ranks_, stream), "a sum");
      return;
    }
    // Whole slices for each rank, so that a bucket is gathered in one call.
    const index most = bucket_ / static_cast<index>(sizeof(T)) / size() * size();
    for (index first = 0; first < n; first += most)
      sum_bucket(stream, static_cast<T*>(staged), p + first, std::min(most, n - first));
  }
  template <class T>
  void sum_bucket(cudaStream_t stream, T* all, T* p, index n) {
    const index slice = (n + size() - 1) / size();
    const auto first = [&](index r) { return std::min(r * slice, n); };
    const auto count = [&](index r) { return static_cast<std::size_t>(first(r + 1) - first(r)); };
    check(ncclGroupStart(), "a sum");
    for (index r = 0; r < size(); ++r) {
      if (count(r) > 0)
        check(ncclSend(p + first(r), count(r), type_of<T>, static_cast<int>(r), ranks_, stream), "a sum");
      if (count(rank()) > 0)
        check(ncclRecv(all + r * slice, count(rank()), type_of<T>, static_cast<int>(r), ranks_, stream),
              "a sum");
    }
    check(ncclGroupEnd(), "a sum");
    if (const auto mine = static_cast<index>(count(rank())); mine > 0) {
      const auto blocks = static_cast<unsigned>(std::min<index>((mine + 255) / 256, 1024));
      detail::add_ranks<<<blocks, 256, 0, stream>>>(p + first(rank()), all, slice, mine, size());
      detail::check(cudaGetLastError(), "adding up");
    }
    constexpr auto each = static_cast<index>(sizeof(T));
    if (n == slice * size()) return gather_even(stream, p, slice * each);
    gather(stream, p, [&](index r) { return first(r) * each; });
  }
  void gather_even(cudaStream_t stream, void* p, index each) {
    if (each == 0) return;
    check(ncclAllGather(static_cast<std::byte*>(p) + rank() * each, p, static_cast<std::size_t>(each), ncclInt8,
                        ranks_, stream),
          "a gather");
  }
  template <class Start>
  void gather(cudaStream_t stream, void* p, const Start& start) {
    check(ncclGroupStart(), "a gather");
    for (index r = 0; r < size(); ++r) {
      void* part = static_cast<std::byte*>(p) + start(r);
      if (const index n = start(r + 1) - start(r); n > 0)
        check(ncclBroadcast(part, part, static_cast<std::size_t>(n), ncclInt8, static_cast<int>(r), ranks_,
                            stream),
              "a gather");
    }
    check(ncclGroupEnd(), "a gather");
  }

  any host_;
  comm::progress* progress_;
  index bucket_, all_reduce_;
  ncclComm_t ranks_ = nullptr;
  cudaStream_t side_ = nullptr;
  cudaEvent_t before_ = nullptr, behind_ = nullptr;
  void* staged_[2] = {nullptr, nullptr};  ///< of the device's own sums, and of those beside them
  bool beside_ = false;
};

}  // namespace distil_xlstm::comm
