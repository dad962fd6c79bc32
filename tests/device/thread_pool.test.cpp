#include <boost/test/unit_test.hpp>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <stdexcept>
#include <thread>
#include <vector>

#include <distil_xlstm/device/cpu/thread_pool.hpp>

namespace distil_xlstm::device {

BOOST_AUTO_TEST_CASE(every_task_is_done_once_by_a_thread_of_the_pool) {
  for (const int threads : {1, 2, 3, 7}) {
    thread_pool pool(threads);
    BOOST_TEST(pool.size() == threads);
    for (int again = 0; again < 400; ++again) {
      const index n = again % 23;
      std::vector<int> done(static_cast<std::size_t>(n));  // each its own: a race if two take one
      std::atomic<bool> known{true};
      pool.run(n, [&](index task, int thread) {
        ++done[static_cast<std::size_t>(task)];
        if (thread < 0 || thread >= threads) known = false;
      });
      BOOST_TEST(known);
      for (const int times : done) BOOST_TEST(times == 1);
    }
  }
}

BOOST_AUTO_TEST_CASE(a_thread_whose_share_is_done_helps_the_others) {
  thread_pool pool(2);
  std::atomic<int> fast{0};
  std::atomic<bool> alone{false};
  // The first task of the caller's share lasts until all others are done.
  pool.run(10, [&](index task, int) {
    if (task > 0) return void(++fast);
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (fast < 9 && !alone) alone = std::chrono::steady_clock::now() > end;
  });
  BOOST_TEST(!alone);
}

BOOST_AUTO_TEST_CASE(threads_that_went_to_sleep_wake_up) {
  thread_pool pool(3);
  for (int again = 0; again < 3; ++again) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    std::atomic<int> at_once{0};
    std::atomic<bool> alone{false};
    pool.run(3, [&](index, int) {
      ++at_once;
      const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
      while (at_once < 3 && !alone) alone = std::chrono::steady_clock::now() > end;
    });
    BOOST_TEST(!alone);
  }
}

BOOST_AUTO_TEST_CASE(an_error_ends_a_run_and_not_the_pool) {
  thread_pool pool(3);
  for (int again = 0; again < 200; ++again) {
    std::atomic<int> running{0};
    BOOST_CHECK_THROW(pool.run(50,
                               [&](index task, int) {
                                 ++running;
                                 if (task % 7 == 3) throw std::runtime_error("task");
                                 --running;
                               }),
                      std::runtime_error);
    BOOST_TEST(running > 0);
    std::atomic<int> done{0};
    pool.run(50, [&](index, int) { ++done; });
    BOOST_TEST(done == 50);
  }
}

}  // namespace distil_xlstm::device
