#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <type_traits>
#include <vector>

#include <distil_xlstm/device/cpu.hpp>

// g++ says so by a macro, clang by a feature.
#if defined(__SANITIZE_ADDRESS__)
#define DISTIL_XLSTM_TEST_ASAN
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define DISTIL_XLSTM_TEST_ASAN
#endif
#endif

namespace distil_xlstm::testing {

namespace detail {

/// Memory that is closed but while a device works: who touches it then crashes.
class fenced_pages {
 public:
  fenced_pages()
      : base_(static_cast<std::byte*>(
            ::mmap(nullptr, reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0))) {
    require(base_ != MAP_FAILED, "fenced: no address space");
  }
  fenced_pages(const fenced_pages&) = delete;
  fenced_pages& operator=(const fenced_pages&) = delete;
  ~fenced_pages() { ::munmap(base_, reserved); }

  /// Zeroed.
  void* allocate(index bytes) {
    const std::size_t n = (static_cast<std::size_t>(bytes) + page - 1) / page * page;
    void* p = nullptr;
    if (auto& same = free_[n]; !same.empty()) {
      p = same.back();
      same.pop_back();
    } else {
      require(used_ + n <= reserved, "fenced: the address space is used up");
      p = base_ + used_;
      used_ += n;
    }
    sizes_[p] = n;
    return p;
  }
  void release(void* p) {
    const std::size_t n = sizes_.at(p);
    ::madvise(p, n, MADV_DONTNEED);
    free_[n].push_back(p);
  }
  bool holds(const void* p, index bytes = 1) const {
    const auto at = reinterpret_cast<std::uintptr_t>(p), base = reinterpret_cast<std::uintptr_t>(base_);
    return at >= base && at + static_cast<std::size_t>(bytes) <= base + used_;
  }
  void open() { protect(PROT_READ | PROT_WRITE); }
  void close() { protect(PROT_NONE); }

  static constexpr std::size_t page = 4096;

 private:
  static constexpr std::size_t reserved = std::size_t{8} << 30;
  void protect(int how) {
    if (used_ > 0) require(::mprotect(base_, used_, how) == 0, "fenced: the pages can not be protected");
  }
  std::byte* base_;
  std::size_t used_ = 0;
  std::map<std::size_t, std::vector<void*>> free_;
  std::map<void*, std::size_t> sizes_;
};

/// What scratch memory comes from.
struct fenced_scratch {
  fenced_pages* pages;
  void* allocate(index bytes) const { return pages->allocate(bytes); }
  void release(void* p) const { pages->release(p); }
};

}  // namespace detail

/// The CPU behind a fence, as a GPU is: the host crashes where it touches the device's memory, and the device
/// throws `error` where it is given the host's. What runs here runs where the two have memories of their own.
template <Precision P = fp32>
class basic_fenced {
 public:
  using precision = P;
  using scalar = typename P::scalar;
  using cpu_type = device::basic_cpu<P>;
  static constexpr bool host_memory = false;
  explicit basic_fenced(int threads = 0) : cpu_(threads), scratch_(detail::fenced_scratch{&pages_}) {}

  void* allocate(index bytes) {
    require_nothing_recorded();
    return pages_.allocate(bytes);
  }
  void release(void* p) { pages_.release(p); }
  void upload(void* to, const void* from, index bytes) {
    require_nothing_recorded();
    if (bytes > 0) move(to, from, bytes, true, false);
  }
  void download(void* to, const void* from, index bytes) {
    require_nothing_recorded();
    if (bytes > 0) move(to, from, bytes, false, true);
  }
  void copy(void* to, const void* from, index bytes) {
    if (bytes > 0) move(to, from, bytes, true, true);
  }
  template <class T>
  device::scratch_lease<T, detail::fenced_scratch> scratch(index n) {
    return {scratch_, n};
  }

  /// What was asked, with the arguments as they were, to be done again: as a GPU records.
  using graph = std::vector<std::function<void(cpu_type&)>>*;
  template <class F>
  graph record(const F& work) {
    auto asked = std::make_unique<std::remove_pointer_t<graph>>();
    recording_ = asked.get();
    try {
      work();
    } catch (...) {
      recording_ = nullptr;
      throw;
    }
    recording_ = nullptr;
    return asked.release();
  }
  static void discard(graph recorded) { delete recorded; }
  void launch(graph recorded) {
    ++launches_;
    for (const auto& work : *recorded) run(work);
  }
  index scratch_generation() const { return scratch_.generation(); }
  /// How often something recorded was launched.
  index launches() const { return launches_; }

  /// work(cpu), which holds its arguments by value, while the memory is open.
  template <class F>
  void run(const F& work) {
    if (recording_) return recording_->emplace_back(work), void();
    pages_.open();
    try {
      work(cpu_);
    } catch (...) {
      pages_.close();
      throw;
    }
    pages_.close();
  }
  void require_own(const char* verb, const void* p) const {
    require(!p || pages_.holds(p), "fenced: ", verb, " is given the host's memory");
  }
#if __has_builtin(__builtin_clear_padding)
  static constexpr bool looks_into_functors = true;
#else
  static constexpr bool looks_into_functors = false;  // the compiler does not tell what is padding
#endif
  /// A functor that a device runs holds no address of the host's memory. Its bytes are looked at, a word at a
  /// time.
  template <class F>
  void require_own_functor([[maybe_unused]] const char* verb, [[maybe_unused]] F f) const {
    static_assert(std::is_trivially_copyable_v<F>, "a device copies functors as bytes");
#if __has_builtin(__builtin_clear_padding)
    __builtin_clear_padding(&f);
    for (std::size_t at = 0; at + sizeof(std::uintptr_t) <= sizeof f; at += sizeof(std::uintptr_t)) {
      std::uintptr_t word;
      std::memcpy(&word, reinterpret_cast<const std::byte*>(&f) + at, sizeof word);
      require(!is_host_address(word), "fenced: ", verb, " is given a functor of ", sizeof f,
              " bytes with an address of the host's memory at byte ", at);
    }
#endif
  }

 private:
  // Nothing of the program's lies below: the address sanitizer's shadow does, and small numbers would pass for
  // addresses in it.
#if defined(DISTIL_XLSTM_TEST_ASAN)
  static constexpr std::uintptr_t lowest = 0x100080000000;
#else
  static constexpr std::uintptr_t lowest = 0x10000;
#endif
  bool is_host_address(std::uintptr_t word) const {
    if (word < lowest || word >> 47 || pages_.holds(reinterpret_cast<const void*>(word))) return false;
    unsigned char resident;
    return ::mincore(reinterpret_cast<void*>(word / detail::fenced_pages::page * detail::fenced_pages::page), 1,
                     &resident) == 0;
  }
  void move(void* to, const void* from, index bytes, bool to_device, bool from_device) {
    require(pages_.holds(to, bytes) == to_device && pages_.holds(from, bytes) == from_device,
            "fenced: a copy between the wrong memories");
    run([=](cpu_type& cpu) { cpu.copy(to, from, bytes); });
  }
  void require_nothing_recorded() const {
    require(!recording_, "fenced: the host takes part in what is to be recorded");
  }

  cpu_type cpu_;
  detail::fenced_pages pages_;
  device::detail::scratch_stack<detail::fenced_scratch> scratch_;
  graph recording_ = nullptr;
  index launches_ = 0;
};
using fenced = basic_fenced<>;

namespace detail {
template <class T>
const void* data_of(const matrix_view<T>& m) {
  return m.data;
}
inline const void* data_of(const frozen_matrix& m) { return m.data; }
template <class M>
const void* data_of(const transposed_matrix<M>& m) {
  return data_of(m.matrix);
}
}  // namespace detail

template <Precision P, class A, class B, class T>
void gemm(basic_fenced<P>& d, A a, B b, matrix_view<T> c, std::type_identity_t<T> beta = 0) {
  for (const void* p : {detail::data_of(a), detail::data_of(b), detail::data_of(c)}) d.require_own("gemm", p);
  d.run([=](device::basic_cpu<P>& cpu) { gemm(cpu, a, b, c, beta); });
}
template <Precision P, class A, class B, class T>
void gemm_batched(basic_fenced<P>& d, index count, A a, index step_a, B b, index step_b, matrix_view<T> c,
                  index step_c, std::type_identity_t<T> beta = 0) {
  for (const void* p : {detail::data_of(a), detail::data_of(b), detail::data_of(c)})
    d.require_own("gemm_batched", p);
  d.run([=](device::basic_cpu<P>& cpu) { gemm_batched(cpu, count, a, step_a, b, step_b, c, step_c, beta); });
}
template <Precision P, class F>
void map(basic_fenced<P>& d, index rows, index cols, const F& f) {
  d.require_own_functor("map", f);
  d.run([=](device::basic_cpu<P>& cpu) { map(cpu, rows, cols, f); });
}
template <Precision P, class F>
void fold_rows(basic_fenced<P>& d, index rows, index cols, const F& f) {
  d.require_own_functor("fold_rows", f);
  d.run([=](device::basic_cpu<P>& cpu) { fold_rows(cpu, rows, cols, f); });
}
template <Precision P, class F>
void fold_columns(basic_fenced<P>& d, index rows, index cols, const F& f) {
  d.require_own_functor("fold_columns", f);
  d.run([=](device::basic_cpu<P>& cpu) { fold_columns(cpu, rows, cols, f); });
}
template <Precision P, class F>
void parallel_for(basic_fenced<P>& d, index n, const F& f) {
  d.require_own_functor("parallel_for", f);
  d.run([=](device::basic_cpu<P>& cpu) { parallel_for(cpu, n, f); });
}

// The operations that the CPU has a fused form of, whose arguments are bytes like a functor's.
template <Precision P, class T>
void mlstm_forward(basic_fenced<P>& d, const mlstm_arguments<T>& a) {
  d.require_own_functor("mlstm_forward", a);
  d.run([=](device::basic_cpu<P>& cpu) { mlstm_forward(cpu, a); });
}
template <Precision P, class T>
void mlstm_backward(basic_fenced<P>& d, const mlstm_backward_arguments<T>& a) {
  d.require_own_functor("mlstm_backward", a);
  d.run([=](device::basic_cpu<P>& cpu) { mlstm_backward(cpu, a); });
}
template <Precision P, class T>
void slstm_forward(basic_fenced<P>& d, const slstm_arguments<T>& a) {
  d.require_own_functor("slstm_forward", a);
  d.run([=](device::basic_cpu<P>& cpu) { slstm_forward(cpu, a); });
}
template <Precision P, class T>
void slstm_backward(basic_fenced<P>& d, const slstm_backward_arguments<T>& a, T* carry) {
  d.require_own_functor("slstm_backward", a);
  d.require_own("slstm_backward", carry);
  d.run([=](device::basic_cpu<P>& cpu) { slstm_backward(cpu, a, carry); });
}
template <Precision P, class T>
void attention_forward(basic_fenced<P>& d, const attention_arguments<T>& a) {
  d.require_own_functor("attention_forward", a);
  d.run([=](device::basic_cpu<P>& cpu) { attention_forward(cpu, a); });
}
template <Precision P, class T>
void attention_backward(basic_fenced<P>& d, const attention_backward_arguments<T>& a) {
  d.require_own_functor("attention_backward", a);
  d.run([=](device::basic_cpu<P>& cpu) { attention_backward(cpu, a); });
}

}  // namespace distil_xlstm::testing
