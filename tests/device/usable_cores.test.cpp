#include <boost/test/unit_test.hpp>

#include <sched.h>

#include <distil_xlstm/device/cpu.hpp>

namespace distil_xlstm::device {

BOOST_AUTO_TEST_SUITE(usable_cores_of_a_process)

// A batch system or a container leaves a process some of the machine's cores: no more threads are started.
BOOST_AUTO_TEST_CASE(a_device_has_no_more_threads_than_cores_to_use) {
  cpu_set_t before, one;
  BOOST_REQUIRE(::sched_getaffinity(0, sizeof before, &before) == 0);
  CPU_ZERO(&one);
  int core = 0;
  while (!CPU_ISSET(core, &before)) ++core;
  CPU_SET(core, &one);
  BOOST_REQUIRE(::sched_setaffinity(0, sizeof one, &one) == 0);
  const int threads = cpu().threads(), asked = cpu(3).threads();
  BOOST_REQUIRE(::sched_setaffinity(0, sizeof before, &before) == 0);
  BOOST_TEST(threads == 1);
  BOOST_TEST(asked == 3);
  BOOST_TEST(cpu().threads() == usable_cores());
}

BOOST_AUTO_TEST_CASE(a_quota_is_rounded_up) {
  BOOST_TEST(cores_of_quota("200000 100000\n") == 2);
  BOOST_TEST(cores_of_quota("150000 100000\n") == 2);
  BOOST_TEST(cores_of_quota("1000 100000\n") == 1);
  for (const char* none : {"max 100000\n", "", "200000", "-1 100000", "5 0", "nonsense"})
    BOOST_TEST(cores_of_quota(none) == 0, none);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace distil_xlstm::device
