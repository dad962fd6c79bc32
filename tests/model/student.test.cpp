#define BOOST_TEST_MODULE student
#include <boost/test/unit_test.hpp>

#include <cstdlib>
#include <filesystem>

#include <distil_xlstm/device/cpu_mlstm.hpp>
#include <distil_xlstm/device/cpu_slstm.hpp>
#include <distil_xlstm/model/xlstm.hpp>
#include <distil_xlstm/testing/gradcheck.hpp>
#include <distil_xlstm/testing/tolerances.hpp>

namespace distil_xlstm {
namespace {

namespace fs = std::filesystem;

/// Forward (and, where the file has gradients, backward) of a student folder against the reference's numbers.
template <class T>
void compare(const fs::path& folder) {
  device::cpu cpu(2);
  const auto model = xlstm<T, device::cpu>::load(cpu, folder);
  const io::safetensors_file expected(folder / "expected.safetensors");
  const auto& ids_info = expected.at("ids");
  const auto ids = ids_info.template values<std::int32_t>();
  const sequence_view seq{ids_info.shape[0], ids_info.shape[1]};
  const index rows = seq.rows(), d = model.width(), v = model.vocabulary();
  auto state = model.make_state(cpu, seq.batch);
  auto tape = model.make_tape(cpu, seq.batch, seq.time, false);
  buffer<T, device::cpu> memory(cpu, 4 * rows * d + 2 * rows * v);
  const matrix_view<T> x(memory.data(), rows, d), hidden(x.data + rows * d, rows, d),
      dhidden(hidden.data + rows * d, rows, d), dx(dhidden.data + rows * d, rows, d),
      logits(dx.data + rows * d, rows, v), w(logits.data + rows * v, rows, v);
  model.forward(cpu, seq, ids.data(), state, tape, x, hidden);
  gemm(cpu, matrix_view<const T>(hidden), transposed(model.head()), logits);
  const auto want = expected.at("logits").template values<double>();
  const double off = testing::relative_error(logits.data, want.data(), logits.size());
  BOOST_TEST_MESSAGE(folder.filename().string() << ": logits " << off);
  BOOST_TEST_CONTEXT(folder.filename().string()) BOOST_TEST(off <= testing::tolerance<T>::reference_forward);

  const io::tensor_info* cotangent = expected.find("W");
  if (!cotangent) cotangent = expected.find("cotangent");
  if (!cotangent) return;
  cotangent->copy_to(w.data);
  typename xlstm<T, device::cpu>::weights_type gradients(cpu, model.stack());
  gemm(cpu, matrix_view<const T>(w), model.head(), dhidden);
  model.stack().backward(cpu, seq, model.weights().views(), gradients.views(), tape.views(),
                         matrix_view<const T>(x), matrix_view<const T>(dhidden), dx);
  for (const auto& e : model.names()) {
    const auto* t = expected.find("grad." + e.name);
    BOOST_REQUIRE_MESSAGE(t, "no gradient of " << e.name);
    const auto g = t->template values<double>();
    const double error = testing::relative_error(gradients.data() + e.offset, g.data(), e.size);
    BOOST_TEST_CONTEXT(folder.filename().string() << " " << e.name)
    BOOST_TEST(error <= testing::tolerance<T>::reference_gradient);
  }
}

std::vector<fs::path> folders() {
  std::vector<fs::path> out;
  for (const auto& f : fs::directory_iterator(fs::path(DISTIL_XLSTM_TEST_DATA) / "golden/student"))
    if (fs::exists(f.path() / "expected.safetensors")) out.push_back(f.path());
  std::sort(out.begin(), out.end());
  BOOST_REQUIRE(out.size() >= 10);
  return out;
}

}  // namespace

BOOST_AUTO_TEST_CASE(students_of_the_reference_in_double) {
  for (const auto& f : folders()) compare<double>(f);
}
BOOST_AUTO_TEST_CASE(students_of_the_reference_in_float) {
  for (const auto& f : folders()) compare<float>(f);
}
BOOST_AUTO_TEST_CASE(saved_and_loaded_in_every_type) {
  device::cpu cpu(1);
  const auto from = folders().front();
  const io::safetensors_file before(from / "model.safetensors");
  std::string name = (fs::temp_directory_path() / "student XXXXXX").string();
  BOOST_REQUIRE(::mkdtemp(name.data()));
  for (const element kind : {element::f32, element::bf16, element::f64}) {
    BOOST_TEST_CONTEXT(traits(kind).name) {
      xlstm<double, device::cpu>::load(cpu, from).save(cpu, name, kind);
      const auto again = xlstm<double, device::cpu>::load(cpu, name);
      const io::safetensors_file after(fs::path(name) / "model.safetensors");
      BOOST_TEST(after.tensors().size() == before.tensors().size());
      for (const auto& t : after.tensors()) {
        BOOST_TEST((t.element == kind));
        auto want = before.at(t.name).values<double>();
        if (kind == element::bf16)
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
