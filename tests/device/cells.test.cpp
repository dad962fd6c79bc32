#include <boost/test/unit_test.hpp>

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

}  // namespace

BOOST_AUTO_TEST_CASE(the_cpu_in_double) {
  for (const index chunk : {1, 4, 64}) compare<double>(testing::kernels::fused, chunk);
}
BOOST_AUTO_TEST_CASE(the_reference_operations_in_double) { compare<double>(testing::kernels::reference, 4); }
BOOST_AUTO_TEST_CASE(the_cpu_in_float) {
  for (const index chunk : {1, 4, 64}) compare<float>(testing::kernels::fused, chunk);
}
BOOST_AUTO_TEST_CASE(the_reference_operations_in_float) { compare<float>(testing::kernels::reference, 4); }

}  // namespace distil_xlstm
