// student FOLDER [REFERENCE]: what must be the same on every processor and with every compiler, in one program of the
// headers alone. The laws of the blocks hold; a tiny student is trained in double and in float, saved to FOLDER, and
// loaded again, the same to the last bit; and it is the student that another build saved to REFERENCE, within the
// published tolerances. The exit status says whether.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <string>
#include <type_traits>
#include <vector>

#include <distil_xlstm/block/hybrid_attention.hpp>
#include <distil_xlstm/core/rng.hpp>
#include <distil_xlstm/device/cpu.hpp>
#include <distil_xlstm/distil/trainer.hpp>
#include <distil_xlstm/io/safetensors.hpp>
#include <distil_xlstm/loss/expression.hpp>
#include <distil_xlstm/model/load_xlstm.hpp>
#include <distil_xlstm/testing/check_block.hpp>
#include <distil_xlstm/testing/tolerances.hpp>

namespace dx = distil_xlstm;
namespace fs = std::filesystem;

namespace {

bool good = true;
void claim(bool holds, const std::string& what) {
  std::printf("%s: %s\n", holds ? "ok" : "FAILED", what.c_str());
  good &= holds;
}

template <class B>
void check(const char* what, const B& block) {
  dx::device::cpu device(1);
  const auto report = dx::testing::check_block(device, block, {.samples = 6});
  claim(report.ok(), std::string("laws of ") + what + (report.ok() ? "" : ": " + report.text));
}

/// The largest difference of a tensor from the reference's, over the largest number in that.
double deviation(const fs::path& file, const fs::path& reference) {
  const dx::io::safetensors_file a(file), b(reference);
  double worst = 0;
  for (const auto& t : b.tensors()) {
    const auto x = a.at(t.name).values<double>(), y = t.values<double>();
    if (x.size() != y.size()) return HUGE_VAL;
    double difference = 0, largest = 0;
    for (std::size_t i = 0; i < y.size(); ++i) {
      difference = std::max(difference, std::abs(x[i] - y[i]));
      largest = std::max(largest, std::abs(y[i]));
    }
    worst = std::max(worst, difference / std::max(largest, 1e-3));
  }
  return worst;
}

template <dx::Precision P>
void train(const fs::path& folder, const fs::path& reference) {
  using T = typename P::scalar;
  constexpr auto kind = std::is_same_v<T, double> ? dx::dtype::f64 : dx::dtype::f32;
  const std::string name = folder.filename().string();
  dx::device::basic_cpu<P> device(2);
  constexpr dx::index vocabulary = 29, width = 16;
  dx::rng random(5);
  std::vector<float> ends(vocabulary * width);
  for (auto& x : ends) x = static_cast<float>(random.normal());
  const dx::frozen_matrix matrix{ends.data(), dx::dtype::f32, vocabulary, width};
  std::vector<std::int32_t> ids;
  for (int i = 0; i < 400; ++i) ids.push_back(static_cast<std::int32_t>(random.below(5) + (i % 6) * 4));

  auto config = dx::xlstm_architecture("default", vocabulary, width, 2, 2, true);
  dx::xlstm<T, dx::device::basic_cpu<P>> student(device, config, matrix, matrix, nullptr);
  student.initialise(device, 1);
  const dx::token_text text{ids};
  const dx::token_windows windows(text, 16);
  const auto objective = dx::loss::cross_entropy();
  dx::trainer trainer(device, student, windows, dx::no_teacher{}, objective,
                      {.batch = 2, .length = 16, .total_steps = 8, .lr = {.peak = 3e-3}});
  double first = 0, last = 0;
  for (int step = 0; step < 8; ++step) {
    last = trainer.step().total;
    if (step == 0) first = last;
  }
  claim(last < first, name + ": the loss falls from " + std::to_string(first) + " to " + std::to_string(last));

  dx::save_xlstm(device, student, folder, kind);
  const auto loaded = dx::load_xlstm<T>(device, folder);
  claim(std::memcmp(loaded.weights().data(), student.weights().data(),
                    static_cast<std::size_t>(student.weights().size()) * sizeof(T)) == 0,
        name + ": a saved student is loaded the same");
  if (reference.empty()) return;
  const double far = deviation(folder / "model.safetensors", reference / "model.safetensors");
  char number[32];
  std::snprintf(number, sizeof number, "%.2e", far);
  claim(far <= dx::testing::tolerance<T>::trained_weights, name + ": " + number + " from the reference");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2 || argc > 3) return std::fprintf(stderr, "usage: student FOLDER [REFERENCE]\n"), 2;
  const fs::path folder = argv[1], reference = argc == 3 ? argv[2] : "";
  const auto of = [&](const char* precision) { return reference.empty() ? reference : reference / precision; };
  try {
    check("sLSTM", dx::slstm{12, 3});
    check("mLSTM", dx::mlstm{.width = 8, .heads = 2, .inner = 16, .chunk = 4});
    check("attention", dx::attention{.width = 8, .heads = 2, .kv_heads = 1, .head_dim = 4, .capacity = 14});
    train<dx::fp64>(folder / "fp64", of("fp64"));
    train<dx::fp32>(folder / "fp32", of("fp32"));
    train<dx::bf16_mixed>(folder / "bf16", "");
  } catch (const std::exception& e) {
    claim(false, e.what());
  }
  return good ? 0 : 1;
}
