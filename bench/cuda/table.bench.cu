// What the CUDA device does on the card at hand, beside the card's own limits measured in the same run: one
// table, medians. Random data; bfloat16 products unless told otherwise.
//
//   bench.cuda.table                                 everything
//   bench.cuda.table limits mlstm slstm step decode  some of it; step64, step32, qwen: one of the steps;
//                                                    teacher: a transformer's texts, token by token;
//                                                    linearised: parts of a linearised transformer's layer, and
//                                                    a step of each stage
//   bench.cuda.table fp32 step64                     the same in float
#include <cstdio>
#include <exception>
#include <set>
#include <string>
#include <type_traits>
#include <vector>

#include "../random_teacher.hpp"
#include "table/measure.cuh"
#include "table/parts.hpp"

namespace distil_xlstm::bench {
namespace {

void limits(device::basic_cuda<bf16_mixed>& d) {
  const index bytes = index{4} << 30;
  const buffer<char, cuda_base> a(d, bytes), b(d, bytes);
  const double copy = milliseconds(d, [&] { d.copy(a.data(), b.data(), bytes); });
  copy_rate = 2.0 * static_cast<double>(bytes) / copy;
  const index n = 8192;
  std::vector<bf16> half(static_cast<std::size_t>(n * n));
  for (std::size_t i = 0; i < half.size(); ++i) half[i] = bf16(static_cast<float>(i % 1009) / 500 - 1);
  buffer<bf16, cuda_base> y(d, n * n);
  d.upload(y.data(), half.data(), n * n * 2);
  const frozen_matrix m{y.data(), dtype::bf16, n, n};
  const buffer<float, cuda_base> z(d, n * n);
  const double product =
      milliseconds(d, [&] { gemm(d, m, transposed(m), matrix_view<float>(z.data(), n, n)); });
  product_rate = 2.0 * 8192.0 * 8192.0 * 8192.0 / product;
  std::printf("| limit: copy, read + written | %.3f ms | %.2f TB/s |\n", copy, copy_rate / 1e9);
  std::printf("| limit: bf16 product 8192^3 | %.3f ms | %.0f TFLOP/s |\n", product, product_rate / 1e9);
}

/// The parts that were asked for; none: all.
template <Precision P>
void table(const std::set<std::string>& asked) {
  const auto wanted = [&](const char* what) { return asked.empty() || asked.count(what) > 0; };
  device::basic_cuda<P> d;
  timed = &d;
  std::printf("| %s, %d multiprocessors, %s | | |\n|---|---|---|\n", d.name().c_str(), d.multiprocessors(),
              std::is_same_v<P, fp32> ? "float" : "bfloat16 products");
  if (wanted("limits")) {
    // On the table's own device: after another stream has come and gone, graphs of small kernels replay slower.
    if constexpr (std::is_same_v<P, bf16_mixed>) {
      limits(d);
    } else {
      device::basic_cuda<bf16_mixed> rounding;
      limits(rounding);
    }
  }
  if (wanted("mlstm")) mlstm_cells(d);
  if (wanted("linearised")) linearised_parts(d);
  if (wanted("slstm")) slstm_cells(d);
  if (wanted("decode")) student_decodes(d);
  if (wanted("decode") || wanted("teacher")) teacher_decodes(d);
  const bool steps = wanted("step");
  if (steps || asked.count("step64") || asked.count("step32") || wanted("linearised")) {
    const random_teacher smollm(smollm2_shape());
    if (steps || asked.count("step64"))
      step(d, "SmolLM2", smollm.folder, 64, 512, "peer 231k tokens/s, 17.9 GiB");
    if (steps || asked.count("step32"))
      step(d, "SmolLM2", smollm.folder, 32, 512, "peer 199k tokens/s, 9.3 GiB");
    if (wanted("linearised")) linearised_steps(d, smollm.folder);
  }
  if (steps || asked.count("qwen")) {
    const random_teacher qwen(qwen2_shape());
    step(d, "Qwen2.5", qwen.folder, 8, 512, "peer 44.1k tokens/s, 13.1 GiB");
  }
}

}  // namespace
}  // namespace distil_xlstm::bench

int main(int count, char** words) {
  using namespace distil_xlstm;
  std::set<std::string> asked(words + 1, words + count);
  try {
    if (asked.erase("fp32") > 0)
      bench::table<fp32>(asked);
    else
      bench::table<bf16_mixed>(asked);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "bench: %s\n", e.what());
    return 1;
  }
}
