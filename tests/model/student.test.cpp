#define BOOST_TEST_MODULE student
#include <boost/test/unit_test.hpp>

#include <filesystem>

#include <distil_xlstm/testing/tolerances.hpp>

#include "../comparison/student.hpp"

namespace distil_xlstm {
namespace {

/// Forward and backward of every student folder against the reference's numbers.
template <class T>
void compare() {
  using limits = testing::tolerance<T>;
  device::cpu cpu(2);
  const auto folders = testing::golden_models(std::filesystem::path(DISTIL_XLSTM_TEST_DATA) / "golden/student");
  BOOST_REQUIRE(folders.size() >= 10);
  for (const auto& folder : folders) {
    const std::string name = folder.filename().string();
    for (const auto& e : testing::student_errors<T>(cpu, folder)) {
      const double limit = e.name == "logits" ? limits::reference_forward : limits::reference_gradient(name);
      BOOST_TEST(e.error <= limit, name << " " << e.name << ": off by " << e.error << ", at most " << limit);
    }
  }
}

}  // namespace

BOOST_AUTO_TEST_CASE(students_of_the_reference_in_double) { compare<double>(); }
BOOST_AUTO_TEST_CASE(students_of_the_reference_in_float) { compare<float>(); }
BOOST_AUTO_TEST_CASE(the_shapes_of_the_paper) {
  const auto paper = xlstm_architecture("paper", 151936, 1536, 28, 12, false);
  BOOST_TEST(paper.total() == 550923360);
  BOOST_TEST(paper.trainable() == 84175968);
  const auto heuristic = xlstm_architecture("heuristic", 151936, 1536, 28, 12, false);
  BOOST_TEST(heuristic.total() == 665392296);
  BOOST_TEST(heuristic.trainable() == 198644904);
}

}  // namespace distil_xlstm
