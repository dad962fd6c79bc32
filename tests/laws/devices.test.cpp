#include <boost/test/unit_test.hpp>

#include <tuple>

#include <distil_xlstm/device/cpu.hpp>
#include <distil_xlstm/device/transform.hpp>
#include <distil_xlstm/testing/check_device.hpp>

namespace distil_xlstm {
using scalars = std::tuple<float, double>;

BOOST_AUTO_TEST_CASE_TEMPLATE(every_verb_is_its_naive_loop, T, scalars) {
  device::cpu device(2);
  const auto report = testing::check_device<T>(device);
  BOOST_TEST(report.ok(), report.text);
}

BOOST_AUTO_TEST_CASE(a_transform_may_round_what_it_writes) {
  constexpr index rows = 3, cols = 70;
  device::cpu device(1);
  buffer<float, device::cpu> x(device, rows * cols);
  buffer<bf16, device::cpu> y(device, rows * cols);
  rng random(1);
  for (index i = 0; i < rows * cols; ++i) x.data()[i] = static_cast<float>(random.normal());
  const matrix_view in(x.data(), rows, cols);
  transform(device, matrix_view(y.data(), rows, cols), math::times{}, in, in);
  for (index i = 0; i < rows * cols; ++i) BOOST_TEST(y.data()[i].bits == bf16(x.data()[i] * x.data()[i]).bits);
}

// A precision rules its own scalar: floats on a device of doubles, and doubles on any, are what they are.
BOOST_AUTO_TEST_CASE(what_a_precision_does_not_rule_stays_what_it_is) {
  device::cpu single(1);
  device::basic_cpu<fp64> proofs(1);
  device::basic_cpu<bf16_mixed> rounding(1);
  BOOST_TEST(testing::check_same_results<float>(single, proofs).ok());
  BOOST_TEST(testing::check_same_results<double>(single, proofs).ok());
  BOOST_TEST(testing::check_same_results<double>(single, rounding).ok());
}

BOOST_AUTO_TEST_CASE_TEMPLATE(results_do_not_depend_on_the_threads, T, scalars) {
  device::cpu one(1);
  for (const int threads : {2, 3, 5}) {
    device::cpu several(threads);
    const auto report = testing::check_same_results<T>(one, several);
    BOOST_TEST(report.ok(), threads << " threads: " << report.text);
  }
}

/// The CPU with one verb that is wrong.
struct forgetful : device::cpu {
  forgetful() : device::cpu(1) {}
};
template <class F>
void fold_rows(forgetful& d, index rows, index cols, const F& f) {
  device::fold_rows(static_cast<device::cpu&>(d), rows, cols - 1, f);
}

BOOST_AUTO_TEST_CASE(a_fault_is_found_under_its_law) {
  forgetful device;
  BOOST_TEST(testing::check_device<double>(device).law == "fold_rows is the loop over columns");
  device::cpu exact(1);
  device::basic_cpu<bf16_mixed> rounding(1);
  BOOST_TEST(testing::check_device<float>(rounding).law == "gemm is the naive product (plain)");
  BOOST_TEST(!testing::check_same_results<float>(exact, rounding).ok());
}

}  // namespace distil_xlstm
