#include <array>
#include <cmath>
#include <cstddef>
#include <limits>
#include <tuple>
#include <vector>

#include <boost/test/unit_test.hpp>

#include <distil_xlstm/math/slstm_cell.hpp>
#include <distil_xlstm/testing/tolerances.hpp>

#include "../comparison/golden_cells.hpp"

// The cells of tests/golden/cells: gates of every size, carried states, gradients of the last state.
namespace distil_xlstm {
namespace {

template <class T>
void compare(testing::kernels which, index chunk) {
  device::cpu cpu(2);
  const std::filesystem::path file =
      std::filesystem::path(DISTIL_XLSTM_TEST_DATA) / "golden/cells/cells.safetensors";
  for (const auto& e : testing::cell_errors<T>(cpu, file, which, chunk))
    BOOST_TEST(e.error <= testing::tolerance<T>::reference_cell(e.name), e.name << ": off by " << e.error);
}

/// Gates i~ f~ z~ o~ and the state c' n' m' before.
using slstm_inputs = std::array<double, 7>;

template <class T>
T hidden(const slstm_inputs& x) {
  const auto at = [&](std::size_t i) { return static_cast<T>(x[i]); };
  return math::slstm_hidden<T>(at(0), at(1), at(2), at(3), at(4), at(5), at(6));
}

template <class T>
void compare_hidden(double tolerance) {
  std::vector<slstm_inputs> all;
  constexpr double huge = 1e30, values[] = {-huge, -200, -64, -3, 0, 2.5, 64, 200, huge};
  // A new sequence, the first step after it, and a long one.
  constexpr double states[][3] = {{0, 0, 0}, {0.75, 1, -40}, {-1, 1, 70}, {1e5, 1e6, 3}, {-3e5, 1e6, -300}};
  for (const double i : values)
    for (const double f : values)
      for (const double z : {-huge, -0.5, 0.0, 3.0})
        for (const double o : {-huge, 0.25, huge})
          for (const auto& [c, n, m] : states) all.push_back({i, f, z, o, c, n, m});
  double worst = 0;
  for (auto& x : all) {
    for (double& one : x) one = static_cast<double>(static_cast<T>(one));
    const double want = math::slstm_cell<double>(x[0], x[1], x[2], x[3], x[4], x[5], x[6]).h;
    const double off = std::abs(static_cast<double>(hidden<T>(x)) - want);
    worst = off <= worst ? worst : off;  // NaN stays
  }
  BOOST_TEST(worst <= tolerance);
}

}  // namespace

// It has another form, which some devices compute while a step is waited for.
BOOST_AUTO_TEST_CASE(the_hidden_state_alone_is_that_of_the_cell) {
  compare_hidden<double>(testing::tolerance<double>::reference_cell("extreme"));
  compare_hidden<float>(testing::tolerance<float>::reference_cell("extreme"));
  const double none = std::numeric_limits<double>::quiet_NaN();
  for (std::size_t i = 0; i < std::tuple_size_v<slstm_inputs>; ++i) {
    slstm_inputs x{0.5, 1, -0.25, 2, 0.5, 1.5, -1};
    x[i] = none;
    BOOST_TEST(std::isnan(hidden<double>(x)), "input " << i);
    BOOST_TEST(std::isnan(hidden<float>(x)), "input " << i);
  }
}

BOOST_AUTO_TEST_CASE(the_cpu_in_double) {
  for (const index chunk : {1, 4, 64}) compare<double>(testing::kernels::fused, chunk);
}
BOOST_AUTO_TEST_CASE(the_reference_operations_in_double) { compare<double>(testing::kernels::reference, 4); }
BOOST_AUTO_TEST_CASE(the_cpu_in_float) {
  for (const index chunk : {1, 4, 64}) compare<float>(testing::kernels::fused, chunk);
}
BOOST_AUTO_TEST_CASE(the_reference_operations_in_float) { compare<float>(testing::kernels::reference, 4); }

}  // namespace distil_xlstm
