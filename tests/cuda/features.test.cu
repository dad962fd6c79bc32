#include "compare.hpp"

#include <string>

#include <distil_xlstm/op/feature_map/op.hpp>
#include <distil_xlstm/testing/tolerances.hpp>

// Softmax features on the GPU against the CPU in double.
namespace distil_xlstm {
namespace {

/// phi, dx and dweight, of random numbers; rows of all matrices are `slack` numbers longer than they need be. phi is
/// stored as Operand.
template <class T, class Operand = T, class D>
std::vector<std::vector<double>> features(D& d, index rows, const feature_map_shape& s, double beta,
                                          index slack) {
  const index in = s.inputs * s.width, out = s.heads * s.size(), weights = s.heads * s.width * s.features;
  auto weight = random_numbers(weights, 1, 0.1);
  for (index i = 0; i < weights; ++i)
    if (i / s.features % s.width == i % s.features) weight[static_cast<std::size_t>(i)] += 1;
  const on_device<Operand, D> phi(d, rows * (out + slack));
  const on_device<T, D> w(d, weight), x(d, random_numbers(rows * (in + slack), 2)),
      dphi(d, random_numbers(rows * (out + slack), 3)), dx(d, random_numbers(rows * (in + slack), 4)),
      dw(d, random_numbers(weights, 5));
  const feature_map_arguments<T, Operand> a{s, w.data(), matrix_view<const T>(x.data(), rows, in, in + slack),
                                            matrix_view<Operand>(phi.data(), rows, out, out + slack)};
  feature_map_forward(d, a);
  feature_map_backward(d,
                       feature_map_backward_arguments<T, Operand>{
                           a, matrix_view<const T>(dphi.data(), rows, out, out + slack),
                           matrix_view<T>(dx.data(), rows, in, in + slack), static_cast<T>(beta), dw.data()});
  const auto columns = [&](const auto& m, index width) {
    const auto all = m.numbers();
    std::vector<double> there;
    for (index r = 0; r < rows; ++r)
      there.insert(there.end(), all.begin() + r * (width + slack), all.begin() + r * (width + slack) + width);
    return there;
  };
  return {columns(phi, out), columns(dx, in), dw.numbers()};
}

/// The device against the CPU, phi stored as float and as the operand.
template <class P>
void check_features(device::basic_cuda<P>& gpu, device::cpu& cpu, index rows, const feature_map_shape& s,
                    double beta, index slack) {
  constexpr auto limits = testing::cuda_tolerance::features;
  const double limit = is_bf16<P> ? limits.bf16 : limits.fp32;
  using operand = operand_t<device::basic_cuda<P>, float>;
  const auto got = features<float>(gpu, rows, s, beta, slack),
             stored = features<float, operand>(gpu, rows, s, beta, slack),
             want = features<double>(cpu, rows, s, beta, slack);
  const std::string what = std::to_string(rows) + " rows, " + std::to_string(s.heads) + " heads of " +
                           std::to_string(s.inputs) + " inputs, " + std::to_string(s.width) + " to " +
                           std::to_string(s.features) + ", slack " + std::to_string(slack) + ": ";
  const char* names[] = {"phi", "dx", "dweight"};
  for (std::size_t i = 0; i < 3; ++i) {
    check_close((what + names[i]).c_str(), got[i], want[i], limit);
    check_close((what + names[i] + " as an operand").c_str(), stored[i], want[i], limit);
  }
}

}  // namespace

BOOST_AUTO_TEST_CASE_TEMPLATE(as_the_cpu_s, P, float_precisions) {
  device::basic_cuda<P> gpu;
  device::cpu cpu(2);
  for (const feature_map_shape& s :
       {feature_map_shape{9, 9, 64, 64, true}, feature_map_shape{9, 3, 64, 64, true},
        feature_map_shape{6, 2, 16, 24, true}, feature_map_shape{3, 1, 64, 40, false},
        feature_map_shape{3, 1, 64, 10, false}, feature_map_shape{4, 4, 5, 7, true},
        feature_map_shape{2, 2, 128, 64, true}})
    for (const index rows : {1, 2, 127, 128, 129, 700})
      for (const index slack : {0, 3, 8})
        for (const double beta : {0.0, 1.0}) check_features(gpu, cpu, rows, s, beta, slack);
}
BOOST_AUTO_TEST_CASE_TEMPLATE(several_tiles_a_block, P, float_precisions) {
  device::basic_cuda<P> gpu;
  device::cpu cpu(2);
  for (const double beta : {0.0, 1.0}) {
    check_features(gpu, cpu, 400, feature_map_shape{176, 88, 16, 24, true}, beta, 0);
    check_features(gpu, cpu, 2500, feature_map_shape{9, 9, 64, 64, true}, beta, 0);
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
  // In a tile of the tensor cores, and by the default.
  for (const index width : {8, 2}) {
    const feature_map_shape s{1, 1, width, width, true};
    std::vector<double> identity(static_cast<std::size_t>(width * width)),
        numbers(static_cast<std::size_t>(3 * width)), want(static_cast<std::size_t>(6 * width));
    for (index i = 0; i < width; ++i) identity[static_cast<std::size_t>(i * width + i)] = 1;
    numbers[0] = 3e30, numbers[1] = -3e30;
    numbers[static_cast<std::size_t>(width)] = 1e4, numbers[static_cast<std::size_t>(width + 1)] = -1e4;
    for (const index row : {0, 1}) {
      want[static_cast<std::size_t>(2 * width * row)] = 1;
      want[static_cast<std::size_t>(2 * width * row + width + 1)] = 1;
    }
    for (index i = 4 * width; i < 6 * width; ++i)
      want[static_cast<std::size_t>(i)] = 1 / static_cast<double>(width);
    const on_device<float, D> w(gpu, identity), x(gpu, numbers), phi(gpu, 6 * width);
    feature_map_forward(gpu,
                        feature_map_arguments<float>{s, w.data(), matrix_view<const float>(x.data(), 3, width),
                                                     matrix_view<float>(phi.data(), 3, 2 * width)});
    BOOST_TEST(phi.numbers() == want);
  }
}

}  // namespace distil_xlstm
