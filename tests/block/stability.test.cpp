#include <boost/test/unit_test.hpp>

#include <distil_xlstm/testing/tolerances.hpp>

#include "../comparison/stability.hpp"

// A million tokens at gates beyond what training meets: nothing overflows, and float stays by double.
namespace distil_xlstm {
namespace {

constexpr index million = 1000000;
device::cpu& cpu() {
  static device::cpu device(1);
  return device;
}
void check(const testing::drift& d) {
  BOOST_TEST_MESSAGE("largest |h| " << d.largest << ", float off by " << d.error());
  BOOST_TEST(d.finite);
  BOOST_TEST(d.error() <= testing::tolerance<float>::a_million_steps);
}

}  // namespace

BOOST_AUTO_TEST_CASE(mlstm_in_chunks) {
  check(testing::mlstm_drift(cpu(), million, 1000));
  check(testing::mlstm_drift(cpu(), million, 1000, testing::long_memories));
}
BOOST_AUTO_TEST_CASE(mlstm_token_by_token) {
  check(testing::mlstm_drift(cpu(), million, 1));
  check(testing::mlstm_drift(cpu(), million, 1, testing::long_memories));
}
BOOST_AUTO_TEST_CASE(slstm_without_recurrence) {
  check(testing::slstm_drift(cpu(), million, 1000));
  check(testing::slstm_drift(cpu(), million, 1000, testing::long_memories));
}

}  // namespace distil_xlstm
