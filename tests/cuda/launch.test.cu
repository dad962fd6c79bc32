#include "compare.hpp"

#include <array>
#include <string>
#include <vector>

#include <distil_xlstm/block/causal_conv1d.hpp>
#include <distil_xlstm/block/embedding.hpp>
#include <distil_xlstm/block/headwise_linear.hpp>
#include <distil_xlstm/block/norm.hpp>
#include <distil_xlstm/device/transform.hpp>
#include <distil_xlstm/op/mlstm/op.hpp>
#include <distil_xlstm/op/sampling/op.hpp>

// Kernels that start while others run, one by one and recorded: each reads what those before it wrote, and writes
// what they have read.
namespace distil_xlstm {
namespace {

/// Each number and one, from where another block wrote it.
struct passed_on {
  const float* in;
  float* out;
  index n;
  DISTIL_XLSTM_HD void operator()(index i) const { out[i] = in[(i + 1037) % n] + 1; }
};

/// Out of place, so that each number comes of another block's.
struct mixed {
  const float *a, *b, *c;
  float* out;
  index n;
  DISTIL_XLSTM_HD void operator()(index i) const {
    const index from = (i + 1037) % n;
    out[i] = 0.5f * a[from] + 0.4f * b[from] - 0.3f * c[from];
  }
};

/// Rounds of all kinds of kernels, each of which reads what the one before it wrote, the last round's at the latest.
class every_kind {
 public:
  using D = device::basic_cuda<bf16_mixed>;
  using numbers = on_device<float, D>;

  explicit every_kind(D& d) : d_(&d) {}

  template <class After>
  void run(index rounds, const After& after) {
    for (index i = 0; i < rounds; ++i) round(after);
  }
  /// All that is written, one behind another.
  std::vector<double> results() const {
    std::vector<double> all = ids_.numbers();
    for (const numbers* m : {&x_, &u_, &few_, &all_, &heads_, &conv_, &h_, &past_, &c_, &n_, &m_, &row_,
                             &gradients_, &gate_gradients_}) {
      const auto more = m->numbers();
      all.insert(all.end(), more.begin(), more.end());
    }
    return all;
  }

 private:
  static constexpr index rows = 72, few = 40, width = 512, heads = 4, window = 4, head = width / heads,
                         size = rows * width;

  matrix_view<float> view(const numbers& m) const { return {m.data(), rows, width}; }
  matrix_view<const float> weight(const numbers& m) const { return {m.data(), width, width}; }

  template <class After>
  void round(const After& after) {
    D& d = *d_;
    rms_norm<>{width}.forward(d, norm_params<float*>{scale_.data()}, norm_tape<float>{statistics_.data()},
                              matrix_view<const float>(view(x_)), view(u_));
    after();
    // In a kernel of its own; by cuBLAS, after kernels that round.
    gemm(d, matrix_view<const float>(u_.data(), few, width), transposed(weight(w_few_)),
         matrix_view<float>(few_.data(), few, width));
    after();
    gemm(d, matrix_view<const float>(view(u_)), transposed(weight(w_all_)), view(all_));
    after();
    headwise_forward(
        d, std::array{headwise_arguments<float>{width / 4, 4, w_heads_.data(), view(all_), view(heads_)}});
    after();
    causal_conv1d{width, window}.forward(
        d, sequence_view{rows, 1}, conv_params<const float*>{w_conv_.data(), scale_.data()},
        conv_state<float>{{past_.data(), (window - 1) * width}}, conv_tape<float>{before_.data()},
        matrix_view<const float>(view(heads_)), view(conv_));
    after();
    const auto gate = [&](index at) {
      return matrix_view<const float>(few_.data() + at, rows, heads, width / 2);
    };
    mlstm_forward(d, mlstm_arguments<float>{
                         {rows, 1},
                         {heads, head, head},
                         view(heads_),
                         view(conv_),
                         view(all_),
                         gate(0),
                         gate(heads),
                         view(h_),
                         {{c_.data(), heads * head * head}, {n_.data(), heads * head}, {m_.data(), heads}},
                         nullptr});
    after();
    remember(gate(0), gate(heads), after);
    parallel_for(d, size, mixed{h_.data(), conv_.data(), u_.data(), x_.data(), size});
    after();
    choose_likeliest(d, matrix_view<const float>(view(x_)), ids_.data(), static_cast<float*>(nullptr));
    after();
    embed(d, frozen_matrix{w_few_.data(), dtype::f32, width, width}, ids_.data(), view(row_));
    after();
    transform(d, view(x_), math::plus{}, view(x_), view(row_));
    after();
  }

  /// All rows as one sequence, in chunks, and the gradients.
  template <class After>
  void remember(matrix_view<const float> i, matrix_view<const float> f, const After& after) {
    const mlstm_shape shape{heads, head, head};
    const matrix_view<const float> q = view(heads_), k = view(conv_), v = view(all_);
    const auto gradient = [&](index at) {
      return matrix_view<float>(gradients_.data() + at * size, rows, width);
    };
    const auto of_gate = [&](index at) {
      return matrix_view<float>(gate_gradients_.data() + at * rows * heads, rows, heads);
    };
    mlstm_forward(*d_, mlstm_arguments<float>{
                           {1, rows},
                           shape,
                           q,
                           k,
                           v,
                           i,
                           f,
                           view(u_),
                           {{c_.data(), heads * head * head}, {n_.data(), heads * head}, {m_.data(), heads}},
                           tape_.data()});
    after();
    mlstm_backward(*d_, mlstm_backward_arguments<float>{{1, rows},
                                                        shape,
                                                        q,
                                                        k,
                                                        v,
                                                        i,
                                                        f,
                                                        view(u_),
                                                        view(h_),
                                                        tape_.data(),
                                                        gradient(0),
                                                        gradient(1),
                                                        gradient(2),
                                                        of_gate(0),
                                                        of_gate(1)});
    after();
  }

  static std::vector<double> zeros(index n) { return std::vector<double>(static_cast<std::size_t>(n)); }
  numbers random(index n, std::uint64_t seed, double spread = 1) const {
    return {*d_, random_numbers(n, seed, spread)};
  }
  D* d_;
  numbers x_ = random(size, 1), scale_ = random(width, 2), w_few_ = random(width * width, 3, 0.05),
          w_all_ = random(width * width, 4, 0.05), w_heads_ = random(4 * width, 5, 0.5),
          w_conv_ = random(window * width, 6, 0.5);
  numbers statistics_{*d_, 2 * rows}, u_{*d_, size}, few_ = random(size, 7), all_{*d_, size}, heads_{*d_, size},
                                                     conv_{*d_, size}, before_{*d_, (window - 1) * size},
                                                     h_{*d_, size}, row_{*d_, size};
  numbers past_{*d_, zeros((window - 1) * size)}, c_{*d_, zeros(size*head)}, n_{*d_, zeros(size)},
      m_{*d_, zeros(rows*heads)};
  numbers tape_{*d_, zeros(heads*mlstm_shape{heads, head, head}.kept_size(rows))}, gradients_{*d_, 3 * size},
      gate_gradients_{*d_, 2 * rows*heads};
  on_device<std::int32_t, D> ids_{*d_, zeros(rows)};
};

}  // namespace

BOOST_AUTO_TEST_CASE(kernels_wait_for_one_another) {
  device::cuda gpu;
  constexpr index n = 20000, launches = 20, kernels = 100;
  std::vector<double> first(n);
  for (std::size_t i = 0; i < first.size(); ++i) first[i] = static_cast<double>(i);
  const on_device<float, device::cuda> a(gpu, first), b(gpu, n);
  const auto chain = [&] {
    for (index k = 0; k < kernels; k += 2) {
      parallel_for(gpu, n, passed_on{a.data(), b.data(), n});
      parallel_for(gpu, n, passed_on{b.data(), a.data(), n});
    }
  };
  chain();
  const auto graph = gpu.record(chain);
  for (index i = 1; i < launches; ++i) gpu.launch(graph);
  const auto got = a.numbers();
  gpu.discard(graph);
  index wrong = 0;
  for (index i = 0; i < n; ++i)
    wrong += got[static_cast<std::size_t>(i)] !=
             static_cast<double>((i + 1037 * kernels * launches) % n + kernels * launches);
  BOOST_TEST(wrong == 0);
}

BOOST_AUTO_TEST_CASE(kernels_of_all_kinds_wait_for_one_another) {
  every_kind::D gpu;
  constexpr index launches = 6, rounds = 20;
  every_kind waited(gpu), queued(gpu), recorded(gpu);
  waited.run(launches * rounds, [&] { gpu.wait(); });
  queued.run(launches * rounds, [] {});
  const auto graph = gpu.record([&] { recorded.run(rounds, [] {}); });
  for (index i = 0; i < launches; ++i) gpu.launch(graph);
  const auto want = waited.results();
  BOOST_TEST(relative_error(want, want) == 0);  // all of it is finite
  BOOST_TEST((queued.results() == want));
  BOOST_TEST((recorded.results() == want));
  gpu.discard(graph);
}

}  // namespace distil_xlstm
