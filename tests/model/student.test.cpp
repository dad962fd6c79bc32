#include <boost/test/unit_test.hpp>

#include <cstdlib>
#include <filesystem>

#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/testing/tolerances.hpp>

#include "../comparison/student.hpp"

namespace distil_xlstm {
namespace {

namespace fs = std::filesystem;

/// Forward and backward of every student folder against the reference's numbers.
template <class T>
void compare() {
  using limits = testing::tolerance<T>;
  device::cpu cpu(2);
  const auto folders = testing::golden_models(fs::path(DISTIL_XLSTM_TEST_DATA) / "golden/student");
  BOOST_REQUIRE(folders.size() >= 10);
  for (const auto& folder : folders) {
    const std::string name = folder.filename().string();
    const auto condition =
        testing::conditions([&](auto& device) { return testing::student_numbers<double>(device, folder); });
    for (const auto& e : testing::student_errors<T>(cpu, folder)) {
      const double limit =
          e.name == "logits" ? limits::reference_forward : limits::reference_gradient(condition.at(e.name));
      BOOST_TEST(e.error <= limit, name << " " << e.name << ": off by " << e.error << ", at most " << limit);
    }
  }
}

}  // namespace

BOOST_AUTO_TEST_CASE(students_of_the_reference_in_double) { compare<double>(); }
BOOST_AUTO_TEST_CASE(students_of_the_reference_in_float) { compare<float>(); }
BOOST_AUTO_TEST_CASE(saved_and_loaded_in_every_type) {
  device::cpu cpu(1);
  const auto from = fs::path(DISTIL_XLSTM_TEST_DATA) / "golden/student/base";
  const io::safetensors_file before(from / "model.safetensors");
  std::string name = (fs::temp_directory_path() / "student XXXXXX").string();
  BOOST_REQUIRE(::mkdtemp(name.data()));
  for (const dtype type : {dtype::f32, dtype::bf16, dtype::f64}) {
    BOOST_TEST_CONTEXT(traits(type).name) {
      save_xlstm(cpu, load_xlstm<double>(cpu, from), name, type);
      const auto again = load_xlstm<double>(cpu, name);
      const io::safetensors_file after(fs::path(name) / "model.safetensors");
      BOOST_TEST(after.tensors().size() == before.tensors().size());
      for (const auto& t : after.tensors()) {
        BOOST_TEST((t.dtype == type));
        auto want = before.at(t.name).values<double>();
        if (type == dtype::bf16)
          for (double& x : want) x = static_cast<double>(static_cast<float>(bf16(static_cast<float>(x))));
        BOOST_TEST_CONTEXT(t.name) BOOST_TEST((t.values<double>() == want));
      }
    }
  }
  // Typed readers of the reference's configuration take no null for a block's number.
  BOOST_TEST(
      (io::read_json_file(fs::path(name) / "config.json").dump().find("_block_idx") == std::string::npos));
  fs::remove_all(name);
}
BOOST_AUTO_TEST_CASE(the_shapes_of_the_paper) {
  const auto paper = xlstm_architecture("paper", 151936, 1536, 28, 12, false);
  BOOST_TEST(paper.total() == 550923360);
  BOOST_TEST(paper.trainable() == 84175968);
  const auto heuristic = xlstm_architecture("heuristic", 151936, 1536, 28, 12, false);
  BOOST_TEST(heuristic.total() == 665392296);
  BOOST_TEST(heuristic.trainable() == 198644904);
}

}  // namespace distil_xlstm
