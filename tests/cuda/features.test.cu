#include "compare.hpp"

#include <string>

#include <distil_xlstm/op/feature_map/op.hpp>
#include <distil_xlstm/testing/tolerances.hpp>

// Softmax features on the GPU against the CPU in double.
namespace distil_xlstm {
namespace {

/// phi, dx and dweight, of random numbers; rows of all matrices are `slack` numbers longer than they need be.
template <class T, class D>
std::vector<std::vector<double>> features(D& d, index rows, const feature_map_shape& s, double beta,
                                          index slack) {
  const index in = s.inputs * s.width, out = s.heads * s.size(), weights = s.heads * s.width * s.features;
  auto weight = random_numbers(weights, 1, 0.1);
  for (index i = 0; i < weights; ++i)
    if (i / s.features % s.width == i % s.features) weight[static_cast<std::size_t>(i)] += 1;
  const on_device<T, D> w(d, weight), x(d, random_numbers(rows * (in + slack), 2)),
      phi(d, rows * (out + slack)), dphi(d, random_numbers(rows * (out + slack), 3)),
      dx(d, random_numbers(rows * (in + slack), 4)), dw(d, random_numbers(weights, 5));
  const feature_map_arguments<T> a{s, w.data(), matrix_view<const T>(x.data(), rows, in, in + slack),
                                   matrix_view<T>(phi.data(), rows, out, out + slack)};
  feature_map_forward(d, a);
  feature_map_backward(
      d, feature_map_backward_arguments<T>{a, matrix_view<const T>(dphi.data(), rows, out, out + slack),
                                           matrix_view<T>(dx.data(), rows, in, in + slack),
                                           static_cast<T>(beta), dw.data()});
  const auto columns = [&](const on_device<T, D>& m, index width) {
    const auto all = m.numbers();
    std::vector<double> there;
    for (index r = 0; r < rows; ++r)
      there.insert(there.end(), all.begin() + r * (width + slack), all.begin() + r * (width + slack) + width);
    return there;
  };
  return {columns(phi, out), columns(dx, in), dw.numbers()};
}

}  // namespace

BOOST_AUTO_TEST_CASE_TEMPLATE(as_the_cpu_s, P, float_precisions) {
  device::basic_cuda<P> gpu;
  device::cpu cpu(2);
  constexpr auto limits = testing::cuda_tolerance::features;
  const double limit = is_bf16<P> ? limits.bf16 : limits.fp32;
  for (const feature_map_shape& s :
       {feature_map_shape{9, 9, 64, 64, true}, feature_map_shape{9, 3, 64, 64, true},
        feature_map_shape{6, 2, 16, 24, true}, feature_map_shape{3, 1, 64, 10, false},
        feature_map_shape{4, 4, 5, 7, true}, feature_map_shape{2, 2, 128, 64, true}})
    for (const index rows : {1, 2, 127, 128, 129, 700})
      for (const index slack : {0, 2, 3})
        for (const double beta : {0.0, 1.0}) {
          const auto got = features<float>(gpu, rows, s, beta, slack),
                     want = features<double>(cpu, rows, s, beta, slack);
          const std::string what = std::to_string(rows) + " rows, " + std::to_string(s.heads) + " heads of " +
                                   std::to_string(s.inputs) + " inputs, " + std::to_string(s.width) + " to " +
                                   std::to_string(s.features) + ", slack " + std::to_string(slack) + ": ";
          check_close((what + "phi").c_str(), got[0], want[0], limit);
          check_close((what + "dx").c_str(), got[1], want[1], limit);
          check_close((what + "dweight").c_str(), got[2], want[2], limit);
        }
}
BOOST_AUTO_TEST_CASE_TEMPLATE(runs_are_equal, P, float_precisions) {
  device::basic_cuda<P> gpu;
  const feature_map_shape s{9, 3, 64, 64, true};
  const auto first = features<float>(gpu, 3000, s, 0, 0);
  for (int run = 0; run < 3; ++run) BOOST_TEST((features<float>(gpu, 3000, s, 0, 0) == first));
}
BOOST_AUTO_TEST_CASE(large_numbers_are_no_overflow) {
  device::basic_cuda<bf16_mixed> gpu;
  using D = device::basic_cuda<bf16_mixed>;
  const feature_map_shape s{1, 1, 2, 2, true};
  const on_device<float, D> w(gpu, std::vector<double>{1, 0, 0, 1}),
      x(gpu, std::vector<double>{3e30, -3e30, 1e4, 0, 0, 0}), phi(gpu, 12);
  feature_map_forward(gpu, feature_map_arguments<float>{s, w.data(), matrix_view<const float>(x.data(), 3, 2),
                                                        matrix_view<float>(phi.data(), 3, 4)});
  const std::vector<double> want{1, 0, 0, 1, 1, 0, 0, 1, 0.5, 0.5, 0.5, 0.5};
  BOOST_TEST(phi.numbers() == want);
}

}  // namespace distil_xlstm
