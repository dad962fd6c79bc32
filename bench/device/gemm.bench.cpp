#include <cstdint>
#include <vector>

#include <benchmark/benchmark.h>
#include <Eigen/Core>
#include <distil_xlstm/device/cpu/gemm.hpp>

// One thread's matrix products, ours beside Eigen's (which is as fast as this file's -march allows). FLOP/s as
// items.

namespace distil_xlstm::device::detail {
namespace {

enum class form { forward, input_gradient, weight_gradient };  // X W^T, dY W, dY^T X

template <class Number>
std::vector<Number> numbers(index n) {
  std::vector<Number> v(static_cast<std::size_t>(n));
  std::uint32_t state = 1;
  for (Number& x : v) {
    state = state * 1664525u + 1013904223u;
    x = Number(static_cast<float>(state >> 8) * 0x1p-24f - 0.5f);
  }
  return v;
}

template <class Weight, bool Rounded>
void product(benchmark::State& state, form f) {
  const index m = state.range(0), n = state.range(1), k = state.range(2);
  const auto a = numbers<float>(m * k);
  const auto b = numbers<Weight>(n * k);
  std::vector<float> c(static_cast<std::size_t>(m * n));
  const bool ta = f == form::weight_gradient, tb = f == form::forward;
  const dtype type = sizeof(Weight) == 2 ? dtype::bf16 : dtype::f32;
  gemm_scratch<float> scratch;
  for (auto _ : state) {
    (Rounded ? gemm_block_bf16 : gemm_block<float>)(m, n, k, {a.data(), ta ? m : k, dtype::f32, ta},
                                                    {b.data(), tb ? k : n, type, tb}, 0.0f, c.data(), n,
                                                    scratch);
    benchmark::ClobberMemory();
  }
  state.counters["FLOP/s"] =
      benchmark::Counter(2.0 * static_cast<double>(m * n * k), benchmark::Counter::kIsIterationInvariantRate);
}

void ours(benchmark::State& state, form f) { product<float, false>(state, f); }
void ours_bf16(benchmark::State& state, form f) { product<bf16, false>(state, f); }  // weights stored as bf16
void rounded(benchmark::State& state, form f) { product<float, true>(state, f); }    // gemm_block_bf16
void rounded_bf16(benchmark::State& state, form f) { product<bf16, true>(state, f); }

void eigen(benchmark::State& state, form f) {
  using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const index m = state.range(0), n = state.range(1), k = state.range(2);
  const matrix a = f == form::weight_gradient ? matrix::Random(k, m) : matrix::Random(m, k);
  const matrix b = f == form::forward ? matrix::Random(n, k) : matrix::Random(k, n);
  matrix c(m, n);
  for (auto _ : state) {
    if (f == form::forward)
      c.noalias() = a * b.transpose();
    else if (f == form::input_gradient)
      c.noalias() = a * b;
    else
      c.noalias() = a.transpose() * b;
    benchmark::ClobberMemory();
  }
  state.counters["FLOP/s"] =
      benchmark::Counter(2.0 * static_cast<double>(m * n * k), benchmark::Counter::kIsIterationInvariantRate);
}

void forward_shapes(benchmark::internal::Benchmark* b) {
  for (const auto& s : {std::vector<std::int64_t>{256, 4096, 576},
                        {2048, 576, 576},
                        {2048, 1536, 576},
                        {2048, 576, 1536},
                        {512, 4096, 576},
                        {64, 288, 288},
                        {1, 49152, 576},
                        {4, 49152, 576}})
    b->Args(s);
}
void input_shapes(benchmark::internal::Benchmark* b) { b->Args({128, 576, 49152}); }
void weight_shapes(benchmark::internal::Benchmark* b) { b->Args({1152, 576, 2048}); }

BENCHMARK_CAPTURE(eigen, forward, form::forward)->Apply(forward_shapes);
BENCHMARK_CAPTURE(ours, forward, form::forward)->Apply(forward_shapes);
BENCHMARK_CAPTURE(ours_bf16, forward, form::forward)->Apply(forward_shapes);
BENCHMARK_CAPTURE(rounded, forward, form::forward)->Apply(forward_shapes);
BENCHMARK_CAPTURE(rounded_bf16, forward, form::forward)->Apply(forward_shapes);
BENCHMARK_CAPTURE(eigen, input_gradient, form::input_gradient)->Apply(input_shapes);
BENCHMARK_CAPTURE(ours, input_gradient, form::input_gradient)->Apply(input_shapes);
BENCHMARK_CAPTURE(rounded, input_gradient, form::input_gradient)->Apply(input_shapes);
BENCHMARK_CAPTURE(eigen, weight_gradient, form::weight_gradient)->Apply(weight_shapes);
BENCHMARK_CAPTURE(ours, weight_gradient, form::weight_gradient)->Apply(weight_shapes);
BENCHMARK_CAPTURE(rounded, weight_gradient, form::weight_gradient)->Apply(weight_shapes);

}  // namespace
}  // namespace distil_xlstm::device::detail

BENCHMARK_MAIN();
