#pragma once

#include <atomic>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include <distil_xlstm/core/extent.hpp>

namespace distil_xlstm::device {

/// Runs n independent tasks on a few threads, the caller among them. Tasks are handed out one by one; as each
/// writes its own output, results do not depend on the number of threads. A task's exception reaches the
/// caller.
class thread_pool {
 public:
  /// Starts threads - 1 threads; the caller of `run` is the other.
  explicit thread_pool(int threads) {
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { work(i); });
  }
  thread_pool(const thread_pool&) = delete;
  thread_pool& operator=(const thread_pool&) = delete;
  ~thread_pool() {
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
      generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    for (auto& t : workers_) t.join();
  }

  /// Threads, the caller among them.
  int size() const { return static_cast<int>(workers_.size()) + 1; }

  /// f(task, thread) for task in 0 .. n-1; returns when all are done.
  template <class F>
  void run(index n, const F& f) {
    run(n, &f, [](const void* body, index task, int thread) { (*static_cast<const F*>(body))(task, thread); });
  }

 private:
  using task_function = void (*)(const void* body, index task, int thread);

  // Of no F, so that a program holds it once.
  void run(index n, const void* body, task_function call) {
    if (n <= 0) return;
    if (n == 1 || workers_.empty()) {
      for (index i = 0; i < n; ++i) call(body, i, 0);
      return;
    }
    {
      std::lock_guard lock(mutex_);
      call_ = call;
      body_ = body;
      count_ = n;
      next_.store(0, std::memory_order_relaxed);
      busy_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
      error_ = nullptr;
      generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    drain(0);
    for (int spin = 0; busy_.load(std::memory_order_acquire) != 0; ++spin) {
      if (spin < spins) {
        relax();
        continue;
      }
      std::unique_lock lock(mutex_);
      done_.wait(lock, [this] { return busy_.load(std::memory_order_acquire) == 0; });
    }
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
  }

  static constexpr int spins = 2000;  // some 20 us: kernels follow one another faster than a thread wakes
  static void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }

  void drain(int thread) {
    for (index i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < count_;) {
      try {
        call_(body_, i, thread);
      } catch (...) {
        std::lock_guard lock(mutex_);
        if (!error_) error_ = std::current_exception();
        next_.store(count_, std::memory_order_relaxed);
      }
    }
  }

  void work(int thread) {
    unsigned seen = 0;
    for (;;) {
      for (int spin = 0; generation_.load(std::memory_order_acquire) == seen && spin < spins; ++spin) relax();
      {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [&] { return generation_.load(std::memory_order_acquire) != seen; });
        seen = generation_.load(std::memory_order_acquire);
        if (stop_) return;
      }
      drain(thread);
      if (busy_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
        std::lock_guard lock(mutex_);
        done_.notify_one();
      }
    }
  }

  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::atomic<unsigned> generation_{0};
  std::atomic<index> next_{0};
  std::atomic<int> busy_{0};
  task_function call_ = nullptr;
  const void* body_ = nullptr;
  index count_ = 0;
  std::exception_ptr error_;
  bool stop_ = false;
};

}  // namespace distil_xlstm::device
