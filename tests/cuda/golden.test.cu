#define BOOST_TEST_MODULE cuda_golden
#include "gpu.hpp"

#include <distil_xlstm/device/cuda.cuh>
#include <distil_xlstm/testing/tolerances.hpp>

#include "../comparison/golden_cells.hpp"
#include "../comparison/student.hpp"
#include "../comparison/teacher.hpp"

// What the CPU is compared with, on the GPU: the reference's cells, students and teachers.
namespace distil_xlstm {
namespace {

const std::filesystem::path golden = std::filesystem::path(DISTIL_XLSTM_TEST_DATA) / "golden";

void within(const testing::tensor_errors& errors, double limit, const std::string& what) {
  const auto w = testing::worst(errors);
  BOOST_TEST_MESSAGE(what << ": " << w.error << " in " << w.name << " of " << errors.size());
  for (const auto& e : errors)
    BOOST_TEST(e.error <= limit, what << ": " << e.name << " is off by " << e.error << ", at most " << limit);
}

}  // namespace

BOOST_AUTO_TEST_CASE(cells_of_the_reference) {
  device::cuda gpu;
  const auto file = golden / "cells/cells.safetensors";
  for (const auto which : {testing::kernels::scan, testing::kernels::own})
    for (const auto& e : testing::cell_errors<float>(gpu, file, which, 64)) {
      BOOST_TEST_MESSAGE(e.name << ": " << e.error);
      BOOST_TEST(e.error <= testing::tolerance<float>::reference_cell(e.name), e.name << ": off by " << e.error);
    }
}
BOOST_AUTO_TEST_CASE(students_of_the_reference) {
  device::cuda gpu;
  for (const auto& folder : testing::golden_models(golden / "student")) {
    within(testing::student_errors<double>(gpu, folder), 1e-10, folder.filename().string() + " fp64");
    within(testing::student_errors<float>(gpu, folder), 3e-4, folder.filename().string() + " fp32");
  }
}
BOOST_AUTO_TEST_CASE(teachers_of_the_reference) {
  device::cuda gpu;
  for (const auto& folder : testing::golden_models(golden / "teacher")) {
    within(testing::teacher_errors<double>(gpu, folder), 1e-10, folder.filename().string() + " fp64");
    within(testing::teacher_errors<float>(gpu, folder), 2e-5, folder.filename().string() + " fp32");
  }
}

}  // namespace distil_xlstm
