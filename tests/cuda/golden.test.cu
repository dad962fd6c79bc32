#include "gpu.hpp"

#include <distil_xlstm/device/cuda.cuh>
#include <distil_xlstm/testing/tolerances.hpp>

#include "../comparison/golden_cells.hpp"
#include "../comparison/linearised.hpp"
#include "../comparison/student.hpp"
#include "../comparison/teacher.hpp"

// What the CPU is compared with, on the GPU: the reference's cells, students, teachers and linearised transformers.
namespace distil_xlstm {
namespace {

const std::filesystem::path golden = std::filesystem::path(DISTIL_XLSTM_TEST_DATA) / "golden";

template <class Limit>
void within(const testing::tensor_errors& errors, const std::string& what, const Limit& limit) {
  const auto w = testing::worst(errors);
  BOOST_TEST_MESSAGE(what << ": " << w.error << " in " << w.name << ", the worst of " << errors.size());
  for (const auto& e : errors)
    BOOST_TEST(e.error <= limit(e.name), what << ": " << e.name << " is off by " << e.error);
}
template <class T>
void cells(device::cuda& gpu, testing::kernels which, index chunk) {
  within(testing::cell_errors<T>(gpu, golden / "cells/cells.safetensors", which, chunk), "cells",
         [](const std::string& name) { return testing::tolerance<T>::reference_cell(name); });
}
template <class T>
void students(device::cuda& gpu) {
  for (const auto& folder : testing::golden_models(golden / "student")) {
    const auto condition =
        testing::conditions([&](auto& device) { return testing::student_numbers<double>(device, folder); });
    within(testing::student_errors<T>(gpu, folder), folder.filename().string(), [&](const std::string& name) {
      return name == "logits" ? testing::tolerance<T>::reference_forward
                              : testing::tolerance<T>::reference_gradient(condition.at(name));
    });
  }
}
template <class T>
void teachers(device::cuda& gpu) {
  for (const auto& folder : testing::golden_models(golden / "teacher"))
    within(testing::teacher_errors<T>(gpu, folder), folder.filename().string(),
           [](const std::string&) { return testing::tolerance<T>::reference_forward; });
}
template <class T>
void linearised(device::cuda& gpu) {
  for (const auto& folder : testing::golden_models(golden / "linearised"))
    within(testing::linearised_errors<T>(gpu, folder), folder.filename().string(), [](const std::string& name) {
      return name == "logits" ? testing::tolerance<T>::reference_forward
                              : testing::tolerance<T>::reference_gradient(0);
    });
  within(testing::linearise_errors<T>(gpu, golden / "linearise"), "linearise", [](const std::string& name) {
    using limits = testing::tolerance<T>;
    return name.find(" final ") != name.npos ? limits::trained_weights
           : name.starts_with("align")       ? limits::alignment_steps
                                             : limits::training_steps;
  });
}

}  // namespace

BOOST_AUTO_TEST_CASE(cells_in_double) {
  device::cuda gpu;
  for (const auto which : {testing::kernels::reference, testing::kernels::fused}) cells<double>(gpu, which, 4);
}
BOOST_AUTO_TEST_CASE(cells_in_float) {
  device::cuda gpu;
  cells<float>(gpu, testing::kernels::reference, 4);
  for (const index chunk : {1, 4, 64}) cells<float>(gpu, testing::kernels::fused, chunk);
}
BOOST_AUTO_TEST_CASE(students_in_double) {
  device::cuda gpu;
  students<double>(gpu);
}
BOOST_AUTO_TEST_CASE(students_in_float) {
  device::cuda gpu;
  students<float>(gpu);
}
BOOST_AUTO_TEST_CASE(teachers_in_double) {
  device::cuda gpu;
  teachers<double>(gpu);
}
BOOST_AUTO_TEST_CASE(teachers_in_float) {
  device::cuda gpu;
  teachers<float>(gpu);
}
BOOST_AUTO_TEST_CASE(linearised_in_double) {
  device::cuda gpu;
  linearised<double>(gpu);
}
BOOST_AUTO_TEST_CASE(linearised_in_float) {
  device::cuda gpu;
  linearised<float>(gpu);
}

}  // namespace distil_xlstm
