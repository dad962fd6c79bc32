#include <boost/test/unit_test.hpp>

#include <atomic>
#include <exception>
#include <thread>
#include <vector>

#include <distil_xlstm/device/cpu.hpp>

#include "../refused.hpp"

namespace distil_xlstm {
namespace {

/// In another thread; what it throws is thrown here.
template <class F>
void elsewhere(const F& call) {
  std::exception_ptr thrown;
  std::thread([&] {
    try {
      call();
    } catch (...) {
      thrown = std::current_exception();
    }
  }).join();
  if (thrown) std::rethrow_exception(thrown);
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_second_thread_is_told) {
  for (const int threads : {1, 3}) {
    device::cpu cpu(threads);
    // While tasks run ...
    std::atomic<int> done{0};
    parallel_for(cpu, 4, [&](index i) {
      if (i == 0)
        refused([&] { elsewhere([&] { parallel_for(cpu, 1, [](index) {}); }); }, "two threads use it at once");
      ++done;
    });
    BOOST_TEST(done == 4);
    // ... and while temporaries are on lease between them.
    {
      const auto lease = cpu.scratch<float>(10);
      refused([&] { elsewhere([&] { cpu.scratch<float>(10); }); }, "two threads use it at once");
      refused([&] { elsewhere([&] { parallel_for(cpu, 2, [](index) {}); }); }, "two threads use it at once");
      // The thread whose it is may ask for more.
      const auto more = cpu.scratch<float>(20);
      parallel_for(cpu, 2, [&](index i) { more.data()[i] = lease.data()[i] = 0; });
    }
    // One after another is no mistake, and an error of a task leaves the device free.
    elsewhere([&] { parallel_for(cpu, 4, [&](index) { ++done; }); });
    BOOST_TEST(done == 8);
    refused([&] { parallel_for(cpu, 4, [](index i) { require(i != 2, "task ", i); }); }, "task 2");
    elsewhere([&] { parallel_for(cpu, 4, [&](index) { ++done; }); });
    BOOST_TEST(done == 12);
  }
}

BOOST_AUTO_TEST_CASE(a_negative_number_of_threads_is_named) {
  refused([] { device::cpu cpu(-2); }, "cpu: -2 threads");
}

}  // namespace distil_xlstm
