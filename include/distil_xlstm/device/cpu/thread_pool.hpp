#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include <distil_xlstm/core/extent.hpp>

namespace distil_xlstm::device {

/// Runs n independent tasks on a few threads, the caller among them. Each has a share of tasks that follow one another,
/// and helps the others when it has done its own; as each task writes its own output, results do not depend on the
/// number of threads. A task's exception reaches the caller, who does not wait for threads that have no task.
class thread_pool {
 public:
  /// Starts threads - 1 threads; the caller of `run` is the other.
  explicit thread_pool(int threads) : shares_(static_cast<std::size_t>(std::max(threads, 1))) {
    workers_.reserve(shares_.size());
    try {
      for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { work(i); });
    } catch (...) {  // the system has no more threads
      end();
      throw;
    }
  }
  thread_pool(const thread_pool&) = delete;
  thread_pool& operator=(const thread_pool&) = delete;
  ~thread_pool() { end(); }

  /// Threads, the caller among them.
  int size() const { return static_cast<int>(shares_.size()); }

  /// f(task, thread) for task in 0 .. n-1; returns when all are done.
  template <class F>
  void run(index n, const F& f) {
    run(n, &f, [](const void* body, index task, int thread) { (*static_cast<const F*>(body))(task, thread); });
  }

 private:
  using task_function = void (*)(const void* body, index task, int thread);

  /// Tasks end - left .. end - 1 are to be taken. Who has taken one may read what `run` has written before: it does
  /// not return, nor begin anew, until that task is done.
  struct alignas(64) share {
    std::atomic<index> left{0};
    index end = 0;
  };

  // Of no F, so that a program holds it once.
  void run(index n, const void* body, task_function call) {
    if (n <= 0) return;
    if (n == 1 || workers_.empty()) {
      for (index i = 0; i < n; ++i) call(body, i, 0);
      return;
    }
    call_ = call;
    body_ = body;
    error_ = nullptr;
    unfinished_.store(n, std::memory_order_relaxed);
    index begin = 0;
    for (int i = 0; i < size(); ++i) {
      share& s = shares_[static_cast<std::size_t>(i)];
      s.end = n * (i + 1) / size();
      s.left.store(s.end - std::exchange(begin, s.end), std::memory_order_release);
    }
    wake();
    drain(0);
    for (int spin = 0; unfinished_.load(std::memory_order_acquire) != 0; ++spin) {
      if (spin < spins) {
        relax();
        continue;
      }
      std::unique_lock lock(mutex_);
      caller_sleeps_.store(true);
      done_.wait(lock, [this] { return unfinished_.load() == 0; });
      caller_sleeps_.store(false);
    }
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
  }

  static constexpr int spins = 2000;  // 20 to 100 us: kernels follow one another faster than a thread wakes
  static void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }

  void end() {
    stop_.store(true);
    wake();
    for (auto& t : workers_) t.join();
  }
  /// There is work: who spins sees it, and who sleeps is woken up. Either a worker sees the new generation before it
  /// sleeps, or this sees that it sleeps.
  void wake() {
    generation_.fetch_add(1);
    if (sleepers_.load() == 0) return;
    { std::lock_guard lock(mutex_); }
    wake_.notify_all();
  }

  void drain(int thread) {
    index done = 0;
    for (int i = 0; i < size(); ++i) {
      share& s = shares_[static_cast<std::size_t>((thread + i) % size())];
      for (index left = s.left.load(std::memory_order_relaxed); left > 0;) {
        if (!s.left.compare_exchange_weak(left, left - 1, std::memory_order_acquire, std::memory_order_relaxed))
          continue;
        ++done;
        try {
          call_(body_, s.end - left, thread);
        } catch (...) {
          std::lock_guard lock(mutex_);
          if (!error_) error_ = std::current_exception();
          for (share& rest : shares_) done += rest.left.exchange(0, std::memory_order_acquire);
        }
        left = s.left.load(std::memory_order_relaxed);
      }
    }
    if (done > 0 && unfinished_.fetch_sub(done) == done && thread > 0 && caller_sleeps_.load()) {
      { std::lock_guard lock(mutex_); }
      done_.notify_one();
    }
  }

  void work(int thread) {
    for (unsigned seen = 0;;) {
      for (int spin = 0; generation_.load(std::memory_order_acquire) == seen && spin < spins; ++spin) relax();
      if (generation_.load(std::memory_order_acquire) == seen) {
        std::unique_lock lock(mutex_);
        sleepers_.fetch_add(1);
        wake_.wait(lock, [&] { return generation_.load() != seen; });
        sleepers_.fetch_sub(1);
      }
      seen = generation_.load(std::memory_order_acquire);
      if (stop_.load()) return;
      drain(thread);
    }
  }

  std::vector<share> shares_;
  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::atomic<unsigned> generation_{0};
  std::atomic<int> sleepers_{0};
  std::atomic<bool> caller_sleeps_{false}, stop_{false};
  alignas(64) std::atomic<index> unfinished_{0};
  task_function call_ = nullptr;
  const void* body_ = nullptr;
  std::exception_ptr error_;
};

}  // namespace distil_xlstm::device
