#pragma once

#include <atomic>
#include <thread>

#include <distil_xlstm/core/error.hpp>

namespace distil_xlstm::device::detail {

/// Who a device works for: one thread at a time. Two at once would write over each other's temporaries, so the second
/// is told. A few nanoseconds a call; a thread that is at work may ask for more.
class one_caller {
 public:
  /// The device is this thread's as long as it lives.
  class turn {
   public:
    explicit turn(one_caller& of) : of_(of) {
      const std::thread::id self = std::this_thread::get_id();
      std::thread::id owner{};
      if (!of_.owner_.compare_exchange_strong(owner, self, std::memory_order_acquire))
        require(owner == self,
                "device: two threads use it at once; give each thread a device of its own, the model may be "
                "shared");
      ++of_.depth_;
    }
    turn(const turn&) = delete;
    turn& operator=(const turn&) = delete;
    ~turn() {
      if (--of_.depth_ == 0) of_.owner_.store({}, std::memory_order_release);
    }

   private:
    one_caller& of_;
  };

 private:
  std::atomic<std::thread::id> owner_{};
  int depth_ = 0;  ///< turns of the owner, one inside another
};

}  // namespace distil_xlstm::device::detail
