#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <utility>

#include <cublas_v2.h>
#include <cuda_runtime_api.h>

#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/core/view.hpp>
#include <distil_xlstm/device/device.hpp>
#include <distil_xlstm/device/precision.hpp>
#include <distil_xlstm/device/scratch.hpp>

namespace distil_xlstm::device {

namespace detail {

/// Throws `error` with what was tried and the runtime's own words.
inline void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess) fail("cuda: ", what, ": ", cudaGetErrorString(status));
}
inline void check(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS) fail("cuda: ", what, ": ", cublasGetStatusString(status));
}

/// The card's memory. Freeing waits for the work that may still use it.
struct cuda_memory {
  void* allocate(index bytes) const {
    void* p = nullptr;
    const cudaError_t status = cudaMalloc(&p, static_cast<std::size_t>(bytes));
    if (status == cudaErrorMemoryAllocation) {
      std::size_t free = 0, total = 0;
      cudaGetLastError();
      cudaMemGetInfo(&free, &total);
      fail("cuda: ", bytes >> 20, " MiB asked for, ", free >> 20, " of ", total >> 20, " MiB are free");
    }
    check(status, "allocation");
    return p;
  }
  void release(void* p) const { cudaFree(p); }
};

/// Copies of products' operands in bfloat16. One is good for the products that follow it directly (two maps of one
/// input, or the two gradients that one output's gradient gives): anything else that the device is asked for may write
/// its operand, and calls `invalidate`, or says what is `written`. Numbers that a caller holds have a copy of the
/// caller's, which is good for as long as they are held.
class operand_copies {
 public:
  struct key {
    const void* data;
    index rows, cols, stride;
    bool operator==(const key&) const = default;
  };
  /// Floats that are not written while they are held, and the same in bfloat16.
  struct held_numbers {
    const float *begin = nullptr, *end = nullptr;
    const bf16* copy = nullptr;
  };
  operand_copies() = default;
  operand_copies(const operand_copies&) = delete;
  operand_copies& operator=(const operand_copies&) = delete;
  ~operand_copies() {
    for (slot& s : slots_) cuda_memory{}.release(s.memory);
  }

  /// Where the copy is, and whether it is there; else it is to be written. A copy that serves `once` is not found
  /// again.
  std::pair<void*, bool> find(const key& wanted, index bytes, bool once) {
    for (slot& s : slots_)
      if (!once && s.made == epoch_ && s.of == wanted) return s.used = ++uses_, std::pair{s.memory, true};
    // The last one may be the other operand of this product. The rest grow together, so that one round through
    // the products of a step finds all that it needs.
    largest_ = std::max(largest_, bytes);
    slot* oldest = nullptr;
    for (slot& s : slots_) {
      if (s.used == uses_ && uses_ > 0) continue;
      grow(s);
      if (!oldest || s.used < oldest->used) oldest = &s;
    }
    oldest->of = wanted, oldest->made = once ? -1 : epoch_, oldest->used = ++uses_;
    return {oldest->memory, false};
  }
  /// All memory that a round like the last will need is there.
  void reserve() {
    for (slot& s : slots_) grow(s);
  }
  /// Where the n floats at `data` are in bfloat16, aligned to 16 bytes, if they are held; else null.
  const bf16* find_held(const float* data, index n) const {
    if (data < held_.begin || data + n > held_.end || (data - held_.begin) % 8 != 0) return nullptr;
    return held_.copy + (data - held_.begin);
  }
  /// From now on these numbers are held; returns those that were.
  held_numbers hold(const held_numbers& numbers) { return std::exchange(held_, numbers); }
  /// No copy made so far is good any longer.
  void invalidate() { ++epoch_; }
  /// Memory from `begin` to `end` is written anew. Throws `error` where numbers are held.
  void written(const void* begin, const void* end) {
    require(!(held_.begin < end && begin < held_.end),
            "cuda: weights are written while products read their copy in bfloat16");
    for (slot& s : slots_) {
      const char* from = static_cast<const char*>(s.of.data);
      const char* to = from + ((s.of.rows - 1) * s.of.stride + s.of.cols) * index{4};
      if (from < end && begin < to) s.made = -1;
    }
  }
  /// Changes when a copy has moved.
  index generation() const { return generation_; }

 private:
  struct slot {
    key of{};
    void* memory = nullptr;
    index size = 0;
    std::int64_t made = -1, used = 0;
  };
  void grow(slot& s) {
    if (s.size >= largest_) return;
    ++generation_;
    cuda_memory{}.release(std::exchange(s.memory, nullptr));
    s.size = 0, s.made = -1;
    s.memory = cuda_memory{}.allocate(largest_);
    s.size = largest_;
  }
  std::array<slot, 3> slots_{};
  held_numbers held_;
  std::int64_t uses_ = 0;
  std::int64_t epoch_ = 0;
  index largest_ = 0;
  index generation_ = 0;
};

/// Holds numbers while it lives, in the place of those that were held before.
class held_copy {
 public:
  held_copy(operand_copies& copies, const operand_copies::held_numbers& numbers)
      : copies_(copies), before_(copies.hold(numbers)) {}
  held_copy(const held_copy&) = delete;
  held_copy& operator=(const held_copy&) = delete;
  ~held_copy() { copies_.hold(before_); }

 private:
  operand_copies& copies_;
  operand_copies::held_numbers before_;
};

}  // namespace detail

/// What of a GPU does not depend on a precision: memory, stream, capture.
class cuda_base {
 public:
  /// The host can not read this memory: `device_copy` copies what a device shall read.
  static constexpr bool host_memory = false;
  /// Products take operands in bfloat16: see `operand_t`.
  static constexpr bool rounded_operands = true;

  /// The device of this number, as CUDA counts those that are visible. Throws `error` where there is none, or where
  /// its compute capability is less than 8.0.
  explicit cuda_base(int ordinal) {
    require(ordinal >= 0 && ordinal < count(), "cuda: device ", ordinal, " of ", count(), " that are there");
    detail::check(cudaSetDevice(ordinal), "choosing the device");
    cudaDeviceProp properties{};
    detail::check(cudaGetDeviceProperties(&properties, ordinal), "asking for the device's properties");
    name_ = properties.name;
    multiprocessors_ = properties.multiProcessorCount;
    shared_bytes_ = static_cast<index>(properties.sharedMemPerBlockOptin);
    capability_ = 10 * properties.major + properties.minor;
    require(capability_ >= 80, "cuda: ", name_, " has compute capability ", properties.major, ".",
            properties.minor, ", at least 8.0 is needed");
    detail::check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "making a stream");
    detail::check(cublasCreate(&products_), "starting cuBLAS");
    detail::check(cublasSetStream(products_, stream_), "giving cuBLAS its stream");
    // A workspace of our own: the same sums on every run, and nothing is allocated later.
    workspace_ = detail::cuda_memory{}.allocate(workspace_bytes);
    detail::check(cublasSetWorkspace(products_, workspace_, workspace_bytes), "giving cuBLAS its workspace");
    constexpr std::size_t bytes = counter_count * sizeof(unsigned);
    counters_ = static_cast<unsigned*>(detail::cuda_memory{}.allocate(bytes));
    detail::check(cudaMemsetAsync(counters_, 0, bytes, stream_), "zeroing memory");
  }
  cuda_base(const cuda_base&) = delete;
  cuda_base& operator=(const cuda_base&) = delete;
  ~cuda_base() {
    cudaStreamSynchronize(stream_);
    cublasDestroy(products_);
    cudaFree(counters_);
    cudaFree(workspace_);
    cudaStreamDestroy(stream_);
  }

  /// How many there are that this process may use.
  static int count() {
    int n = 0;
    return cudaGetDeviceCount(&n) == cudaSuccess ? n : 0;
  }
  /// As the driver calls it.
  const std::string& name() const { return name_; }
  /// Streaming multiprocessors.
  int multiprocessors() const { return multiprocessors_; }
  /// 10 major + minor.
  int capability() const { return capability_; }
  /// Bytes of shared memory that one block can have.
  index shared_bytes() const { return shared_bytes_; }
  /// All work goes through it, in order. Kernels are queued by detail::launch (device/cuda/launch.cuh).
  cudaStream_t stream() const { return stream_; }
  /// What cuBLAS multiplies with, on the stream.
  cublasHandle_t products() const { return products_; }
  /// Memory that a product may use while it runs.
  void* workspace() const { return workspace_; }
  static constexpr std::size_t workspace_bytes = std::size_t{64} << 20;  ///< of that
  /// For blocks of a kernel to count one another; 0 whenever no kernel runs that does.
  unsigned* counters() const { return counters_; }
  static constexpr index counter_count = 4096;  ///< of these
  /// Waits for everything that was asked for.
  void wait() const { detail::check(cudaStreamSynchronize(stream_), "waiting for the device"); }

  /// Zeroed, 256-byte aligned.
  void* allocate(index bytes) {
    void* p = detail::cuda_memory{}.allocate(bytes);
    detail::check(cudaMemsetAsync(p, 0, static_cast<std::size_t>(bytes), stream_), "zeroing memory");
    copies_.invalidate();
    return p;
  }
  /// Gives back what `allocate` gave. Waits for the device.
  void release(void* p) {
    copies_.invalidate();
    detail::cuda_memory{}.release(p);
  }
  /// The host's numbers may change as soon as this returns.
  void upload(void* to, const void* from, index bytes) { move(to, from, bytes, cudaMemcpyHostToDevice); }
  /// Waits for the numbers.
  void download(void* to, const void* from, index bytes) {
    move(to, from, bytes, cudaMemcpyDeviceToHost);
    wait();
  }
  /// Within the device's memory; the two do not overlap.
  void copy(void* to, const void* from, index bytes) { move(to, from, bytes, cudaMemcpyDeviceToDevice); }

  /// A lease of temporary memory for n numbers. Throws `error` where another thread has one.
  template <class T>
  scratch_lease<T, detail::cuda_memory> scratch(index n) {
    return {scratch_, n};
  }

  using graph = cudaGraphExec_t;  ///< what `record` gives, to be given back with `discard`
  /// What `work()` asks of this device, as one graph that `launch` asks for again: the same kernels on the same
  /// memory. Nothing has run yet. `work` must not wait for the device and must find its scratch memory there
  /// (do it once before). Throws `error` where it does something that can not be recorded.
  template <class F>
  graph record(F&& work) {
    copies_.invalidate();  // a graph makes its own copies, and leaves none
    copies_.reserve();
    detail::check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "beginning to record");
    cudaGraph_t captured = nullptr;
    try {
      work();
    } catch (...) {
      cudaStreamEndCapture(stream_, &captured);
      if (captured) cudaGraphDestroy(captured);
      cudaGetLastError();
      copies_.invalidate();
      throw;
    }
    detail::check(cudaStreamEndCapture(stream_, &captured), "recording");
    copies_.invalidate();
    graph recorded = nullptr;
    const cudaError_t status = cudaGraphInstantiate(&recorded, captured, 0);
    cudaGraphDestroy(captured);
    detail::check(status, "making a graph of what was recorded");
    return recorded;
  }
  /// Frees what was recorded.
  static void discard(graph recorded) { cudaGraphExecDestroy(recorded); }
  /// Asks for all that was recorded, as one launch. Does not wait.
  void launch(graph recorded) {
    copies_.invalidate();
    detail::check(cudaGraphLaunch(recorded, stream_), "launching a graph");
  }
  /// Changes when scratch memory has moved: what was recorded before is void.
  index scratch_generation() const { return scratch_.generation() + copies_.generation(); }

  /// For kernels and products, which say here what they write: copies of that are void, or all of them.
  detail::operand_copies& operand_copies() { return copies_; }
  /// While the result lives, the n numbers at `from` are held: nothing writes them, and products that would round
  /// some of them read `copy`, where all of them are rounded. See `rounded_weights`.
  [[nodiscard]] detail::held_copy hold_rounded(const float* from, index n, const bf16* copy) {
    return {copies_, {from, from + n, copy}};
  }

 private:
  void move(void* to, const void* from, index bytes, cudaMemcpyKind kind) {
    if (bytes <= 0) return;
    copies_.written(to, static_cast<const char*>(to) + bytes);
    copies_.invalidate();
    detail::check(cudaMemcpyAsync(to, from, static_cast<std::size_t>(bytes), kind, stream_), "copying memory");
  }
  std::string name_;
  int multiprocessors_ = 0, capability_ = 0;
  index shared_bytes_ = 0;
  cudaStream_t stream_ = nullptr;
  cublasHandle_t products_ = nullptr;
  void* workspace_ = nullptr;
  unsigned* counters_ = nullptr;
  detail::scratch_stack<detail::cuda_memory> scratch_;
  detail::operand_copies copies_;
};

/// One NVIDIA GPU, compute capability 8.0 or later. All work goes through one stream, in order, and does not
/// wait for the host. One device serves one caller at a time, on the thread that made it.
///
/// With `bf16_mixed` products go through the tensor cores; all else stays float, but for what products alone read
/// (`operand_t`), and what lies between the products of a SwiGLU feed-forward and of a frozen decoder's layers.
///
/// The class compiles with any host compiler; the verbs are in device/cuda.cuh, which needs nvcc.
template <Precision P = fp32>
class basic_cuda : public cuda_base {
 public:
  /// @{ As the concept `Device` says.
  using precision = P;
  using scalar = typename P::scalar;
  /// @}
  /// The device of this number. Throws `error` where there is none that the library can use.
  explicit basic_cuda(int ordinal = 0) : cuda_base(ordinal) {}
};
/// The GPU in float.
using cuda = basic_cuda<fp32>;

}  // namespace distil_xlstm::device
