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

/// Operands of products that were rounded to bfloat16. A copy is good for the products that follow it directly:
/// two maps of one input, or the two gradients that one output's gradient gives.
class rounded_operands {
 public:
  struct key {
    const void* data;
    index rows, cols, stride;
    bool operator==(const key&) const = default;
  };
  rounded_operands() = default;
  rounded_operands(const rounded_operands&) = delete;
  rounded_operands& operator=(const rounded_operands&) = delete;
  ~rounded_operands() {
    for (slot& s : slots_) cuda_memory{}.release(s.memory);
  }

  /// Where the copy is, and whether it is there; else it is to be written. `now` numbers what was asked of the
  /// device besides products; -1: the copy serves once.
  std::pair<void*, bool> find(const key& wanted, index bytes, std::int64_t now) {
    for (slot& s : slots_)
      if (now >= 0 && s.made == now && s.of == wanted) return s.used = ++uses_, std::pair{s.memory, true};
    // The last one may be the other operand of this product. The rest grow together, so that one round through
    // the products of a step finds all that it needs.
    largest_ = std::max(largest_, bytes);
    slot* oldest = nullptr;
    for (slot& s : slots_) {
      if (s.used == uses_ && uses_ > 0) continue;
      grow(s);
      if (!oldest || s.used < oldest->used) oldest = &s;
    }
    oldest->of = wanted, oldest->made = now, oldest->used = ++uses_;
    return {oldest->memory, false};
  }
  /// All memory that a round like the last will need is there.
  void settle() {
    for (slot& s : slots_) grow(s);
  }
  /// Memory from `begin` to `end` has been written.
  void written(const void* begin, const void* end) {
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
  std::int64_t uses_ = 0;
  index largest_ = 0;
  index generation_ = 0;
};

}  // namespace detail

/// What of a GPU does not depend on a precision: memory, stream, capture.
class cuda_base {
 public:
  /// The host can not read this memory: `placed` copies what a device shall read.
  static constexpr bool host_memory = false;

  explicit cuda_base(int ordinal) {
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess) count = 0;
    require(ordinal >= 0 && ordinal < count, "cuda: device ", ordinal, " of ", count, " that are there");
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
  }
  cuda_base(const cuda_base&) = delete;
  cuda_base& operator=(const cuda_base&) = delete;
  ~cuda_base() {
    cudaStreamSynchronize(stream_);
    cublasDestroy(products_);
    cudaFree(workspace_);
    cudaStreamDestroy(stream_);
  }

  const std::string& name() const { return name_; }
  int multiprocessors() const { return multiprocessors_; }
  /// 10 major + minor.
  int capability() const { return capability_; }
  /// Shared memory that one block can have.
  index shared_bytes() const { return shared_bytes_; }
  /// For a launch of anything but a product.
  cudaStream_t stream() const {
    ++asked_;
    return stream_;
  }
  cublasHandle_t products() const { return products_; }
  /// Waits for everything that was asked for.
  void wait() const { detail::check(cudaStreamSynchronize(stream_), "waiting for the device"); }

  /// Zeroed, 256-byte aligned.
  void* allocate(index bytes) {
    void* p = detail::cuda_memory{}.allocate(bytes);
    detail::check(cudaMemsetAsync(p, 0, static_cast<std::size_t>(bytes), stream_), "zeroing memory");
    ++asked_;
    return p;
  }
  void release(void* p) {
    ++asked_;
    detail::cuda_memory{}.release(p);
  }
  /// The host's numbers may change as soon as this returns.
  void upload(void* to, const void* from, index bytes) { move(to, from, bytes, cudaMemcpyHostToDevice); }
  /// Waits for the numbers.
  void download(void* to, const void* from, index bytes) {
    move(to, from, bytes, cudaMemcpyDeviceToHost);
    wait();
  }
  void copy(void* to, const void* from, index bytes) { move(to, from, bytes, cudaMemcpyDeviceToDevice); }

  template <class T>
  scratch_lease<T, detail::cuda_memory> scratch(index n) {
    return {scratch_, n};
  }

  using graph = cudaGraphExec_t;
  /// What `work()` asks of this device, as one graph that `launch` asks for again: the same kernels on the same
  /// memory. Nothing has run yet. `work` must not wait for the device and must find its scratch memory there
  /// (do it once before). Throws `error` where it does something that can not be recorded.
  template <class F>
  graph record(F&& work) {
    ++asked_;  // a graph makes its own copies, and leaves none
    rounded_.settle();
    detail::check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "beginning to record");
    cudaGraph_t captured = nullptr;
    try {
      work();
    } catch (...) {
      cudaStreamEndCapture(stream_, &captured);
      if (captured) cudaGraphDestroy(captured);
      cudaGetLastError();
      ++asked_;
      throw;
    }
    detail::check(cudaStreamEndCapture(stream_, &captured), "recording");
    ++asked_;
    graph recorded = nullptr;
    const cudaError_t status = cudaGraphInstantiate(&recorded, captured, 0);
    cudaGraphDestroy(captured);
    detail::check(status, "making a graph of what was recorded");
    return recorded;
  }
  static void discard(graph recorded) { cudaGraphExecDestroy(recorded); }
  void launch(graph recorded) { detail::check(cudaGraphLaunch(recorded, stream()), "launching a graph"); }
  /// Changes when scratch memory has moved: what was recorded before is void.
  index scratch_generation() const { return scratch_.generation() + rounded_.generation(); }

  /// For products alone: the stream, their rounded operands, and how many other things were asked for.
  cudaStream_t product_stream() const { return stream_; }
  detail::rounded_operands& rounded() { return rounded_; }
  std::int64_t asked() const { return asked_; }

 private:
  void move(void* to, const void* from, index bytes, cudaMemcpyKind kind) {
    ++asked_;
    if (bytes > 0)
      detail::check(cudaMemcpyAsync(to, from, static_cast<std::size_t>(bytes), kind, stream_),
                    "copying memory");
  }
  static constexpr std::size_t workspace_bytes = std::size_t{64} << 20;
  std::string name_;
  int multiprocessors_ = 0, capability_ = 0;
  index shared_bytes_ = 0;
  cudaStream_t stream_ = nullptr;
  cublasHandle_t products_ = nullptr;
  void* workspace_ = nullptr;
  detail::scratch_stack<detail::cuda_memory> scratch_;
  detail::rounded_operands rounded_;
  mutable std::int64_t asked_ = 0;
};

/// One NVIDIA GPU, compute capability 8.0 or later. All work goes through one stream, in order, and does not
/// wait for the host. One device serves one caller at a time, on the thread that made it.
///
/// With `bf16_mixed` products go through the tensor cores; all else stays float, but for what lies between the products
/// of a frozen decoder's layers.
///
/// The class compiles with any host compiler; the verbs are in device/cuda.cuh, which needs nvcc.
template <Precision P = fp32>
class basic_cuda : public cuda_base {
 public:
  using precision = P;
  using scalar = typename P::scalar;
  explicit basic_cuda(int ordinal = 0) : cuda_base(ordinal) {}
};
using cuda = basic_cuda<fp32>;

}  // namespace distil_xlstm::device
