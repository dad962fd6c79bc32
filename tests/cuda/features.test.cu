#include "compare.hpp"

#include <algorithm>
#include <array>
#include <string>
#include <utility>
#include <vector>

#include <distil_xlstm/block/hybrid_attention.hpp>
#include <distil_xlstm/op/feature_map/op.hpp>
#include <distil_xlstm/op/gated_mix/op.hpp>
#include <distil_xlstm/op/rotary/op.hpp>
#include <distil_xlstm/testing/gradcheck.hpp>
#include <distil_xlstm/testing/tolerances.hpp>

// Softmax features, gated mixes and the hybrid of attention and memory on the GPU against the CPU in double.
namespace distil_xlstm {
namespace {

/// phi, dx and dweight, of random numbers; rows of all matrices are `slack` numbers longer than they need be. phi and
/// dphi are stored as Operand.
template <class T, class Operand = T, class D>
std::vector<std::vector<double>> features(D& d, index rows, const feature_map_shape& s, double beta,
                                          index slack) {
  const index in = s.inputs * s.width, out = s.heads * s.size(), weights = s.heads * s.width * s.features;
  auto weight = random_numbers(weights, 1, 0.1);
  for (index i = 0; i < weights; ++i)
    if (i / s.features % s.width == i % s.features) weight[static_cast<std::size_t>(i)] += 1;
  const on_device<Operand, D> phi(d, rows * (out + slack)), dphi(d, random_numbers(rows * (out + slack), 3));
  const on_device<T, D> w(d, weight), x(d, random_numbers(rows * (in + slack), 2)),
      dx(d, random_numbers(rows * (in + slack), 4)), dw(d, random_numbers(weights, 5));
  const feature_map_arguments<T, Operand> a{s, w.data(), matrix_view<const T>(x.data(), rows, in, in + slack),
                                            matrix_view<Operand>(phi.data(), rows, out, out + slack)};
  feature_map_forward(d, a);
  feature_map_backward(d,
                       feature_map_backward_arguments<T, Operand>{
                           a, matrix_view<const Operand>(dphi.data(), rows, out, out + slack),
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

/// What is turned, stored as phi and dphi are, and dweight of maps of queries and of keys at once, of random numbers.
template <class T, class Operand = T, class D>
std::vector<std::vector<double>> turned_gradients(D& d, index rows, index width, double beta) {
  const feature_map_shape shapes[] = {{6, 6, width, 64, true}, {6, 2, width, 64, true}};
  const auto random = [&](index n, std::uint64_t seed, double scale = 1) {
    return on_device<T, D>(d, random_numbers(n, seed, scale));
  };
  const auto cosines = random(rows * width / 2, 1), sines = random(rows * width / 2, 2);
  std::vector<on_device<T, D>> numbers;
  std::vector<on_device<Operand, D>> stored;
  numbers.reserve(8), stored.reserve(6);  // views stay
  std::array<feature_map_backward_arguments<T, Operand>, 2> maps;
  for (std::size_t i = 0; i < 2; ++i) {
    const feature_map_shape& s = shapes[i];
    const index in = s.inputs * s.width, out = s.heads * s.size(), weights = s.heads * s.width * s.features;
    const auto of = [&](index cols, std::uint64_t seed) {
      return matrix_view<T>(numbers.emplace_back(random(rows * cols, seed + i)).data(), rows, cols);
    };
    const auto as_operand = [&](index cols, std::uint64_t seed) {
      return matrix_view<Operand>(
          stored.emplace_back(on_device<Operand, D>(d, random_numbers(rows * cols, seed + i))).data(), rows,
          cols);
    };
    auto& g = maps[i];
    g.forward.shape = s, g.forward.weight = numbers.emplace_back(random(weights, 3 + i, 0.1)).data();
    g.forward.x = of(in, 5), g.forward.phi = as_operand(out, 7), g.dphi = as_operand(out, 9);
    g.dx = of(in, 11), g.beta = static_cast<T>(beta), g.turned = as_operand(in, 13);
    g.dweight = numbers.emplace_back(random(weights, 15 + i)).data();
    g.angles = {matrix_view<const T>(cosines.data(), rows, width / 2),
                matrix_view<const T>(sines.data(), rows, width / 2), T(-1)};
    feature_map_forward(d, g.forward);
  }
  feature_map_backward(d, maps);
  return {stored[2].numbers(), numbers[3].numbers(), stored[5].numbers(), numbers[7].numbers()};
}

/// The device against the CPU, phi and dphi stored as float and as the operand.
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

/// dr, dw, dgate and h of random numbers, with dh, dr and h as H and r as R; rows of all matrices are `slack` numbers
/// longer than they need be.
template <class T, class H = T, class R = T, class D>
std::vector<std::vector<double>> mix_gradients(D& d, index rows, index heads, index width, index slack,
                                               bool with_h = true) {
  const index cols = heads * width;
  const auto there = [&](index n, std::uint64_t seed) {
    return on_device<T, D>(d, random_numbers(rows * (n + slack), seed));
  };
  const auto view = [&]<class S>(const on_device<S, D>& m, index n) {
    return matrix_view<S>(m.data(), rows, n, n + slack);
  };
  const auto gate = there(heads, 1), w = there(cols, 3), dw = there(cols, 6), dgate = there(heads, 7);
  const on_device<R, D> r(d, random_numbers(rows * (cols + slack), 2));
  const auto stored = [&](std::uint64_t seed) {
    return on_device<H, D>(d, random_numbers(rows * (cols + slack), seed));
  };
  const auto dh = stored(4), dr = stored(5), h = stored(8);
  gated_mix_backward_arguments<T, H, R> g{{heads, view(gate, heads), view(r, cols), view(w, cols)},
                                          view(dh, cols),
                                          view(dr, cols),
                                          view(dw, cols),
                                          view(dgate, heads)};
  if (with_h) g.h = {h.data(), rows, cols, cols + slack};
  gated_mix_backward(d, g);
  return {dr.numbers(), dw.numbers(), dgate.numbers(), h.numbers()};
}

/// h, stored as H, of random numbers, r as R; rows of all matrices are `slack` numbers longer than they need be.
template <class T, class H = T, class R = T, class D>
std::vector<double> mixed(D& d, index rows, index heads, index width, index slack) {
  const index cols = heads * width;
  const auto there = [&](index n, std::uint64_t seed) {
    return on_device<T, D>(d, random_numbers(rows * (n + slack), seed));
  };
  const auto gate = there(heads, 1), w = there(cols, 3);
  const on_device<R, D> r(d, random_numbers(rows * (cols + slack), 2));
  const on_device<H, D> h(d, random_numbers(rows * (cols + slack), 4));
  const auto view = [&]<class S>(const on_device<S, D>& m, index n) {
    return matrix_view<const S>(m.data(), rows, n, n + slack);
  };
  gated_mix_forward(d, gated_mix_arguments<T, R>{heads, view(gate, heads), view(r, cols), view(w, cols)},
                    matrix_view<H>(h.data(), rows, cols, cols + slack));
  return h.numbers();
}

/// Two parts rotated and one as it is, each in place or into numbers stored as Y. All rows are `slack` numbers longer
/// than they need be.
template <class T, class Y = T, class D>
std::vector<std::vector<double>> rotated(D& d, index rows, index half, T direction, index slack) {
  const std::vector<index> heads{5, 2, 3};
  const auto random = [&]<class S>(S, index cols, std::uint64_t seed) {
    return on_device<S, D>(d, random_numbers(rows * (cols + slack), seed));
  };
  const auto cosines = random(T(), half, 1), sines = random(T(), half, 2);
  std::vector<on_device<T, D>> x;
  std::vector<on_device<Y, D>> y;
  for (const index n : heads)
    x.push_back(random(T(), n * 2 * half, 3 + n)), y.push_back(random(Y(), n * 2 * half, 3 + n));
  const auto part = [&](std::size_t i, bool rotates) {
    const index cols = heads[i] * 2 * half, stride = cols + slack;
    rotary_heads<T, Y> h{matrix_view<const T>(x[i].data(), rows, cols, stride), {}, rotates};
    if constexpr (std::is_same_v<Y, T>)
      h.y = {x[i].data(), rows, cols, stride};
    else
      h.y = {y[i].data(), rows, cols, stride};
    return h;
  };
  const rotary_angles<T> angles{matrix_view<const T>(cosines.data(), rows, half, half + slack),
                                matrix_view<const T>(sines.data(), rows, half, half + slack), direction};
  rotate_heads(d, angles, part(0, true), part(1, true), part(2, false));
  std::vector<std::vector<double>> out;
  for (std::size_t i = 0; i < heads.size(); ++i)
    out.push_back(std::is_same_v<Y, T> ? x[i].numbers() : y[i].numbers());
  return out;
}

/// y, dx, then the weights' gradients, by their names.
template <class T, class D>
std::vector<std::pair<std::string, std::vector<double>>> hybrid(D& d, const hybrid_attention& block,
                                                                sequence_view seq) {
  testing::harness<hybrid_attention, T, D> h(block, d, seq, 1, 0.1);
  h.forward(), h.backward();
  const auto wide = [](const std::vector<T>& x) { return std::vector<double>(x.begin(), x.end()); };
  std::vector<std::pair<std::string, std::vector<double>>> out{{"y", wide(testing::on_host(d, h.y))},
                                                               {"dx", wide(testing::on_host(d, h.dx))}};
  const auto gradients = wide(testing::on_host(d, h.gradients));
  for (const auto& e : h.names)
    out.emplace_back("d " + e.name,
                     std::vector<double>(gradients.begin() + e.offset, gradients.begin() + e.offset + e.size));
  return out;
}
/// ||a - b||
double difference(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (std::size_t i = 0; i < b.size(); ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
  return std::sqrt(sum);
}
double norm_of(const std::vector<double>& a) { return difference(a, std::vector<double>(a.size())); }

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
/// Maps of queries and keys at once give what each gives alone, to the bit.
BOOST_AUTO_TEST_CASE_TEMPLATE(several_maps, P, float_precisions) {
  device::basic_cuda<P> gpu;
  using operand = operand_t<device::basic_cuda<P>, float>;
  for (const index rows : {1, 130, 9000})
    for (const index keys : {3, 9}) {
      const feature_map_shape shapes[] = {{9, 9, 64, 64, true}, {keys, 3, 64, 64, true}};
      std::vector<on_device<float, device::basic_cuda<P>>> x, weight;
      std::vector<on_device<operand, device::basic_cuda<P>>> together, alone;
      for (const feature_map_shape& s : shapes) {
        x.emplace_back(gpu, random_numbers(rows * s.inputs * s.width, 1));
        weight.emplace_back(gpu, random_numbers(s.heads * s.width * s.features, 2, 0.1));
        together.emplace_back(gpu, rows * s.heads * s.size()),
            alone.emplace_back(gpu, rows * s.heads * s.size());
      }
      const auto arguments = [&](std::size_t i, const auto& phi) {
        const feature_map_shape& s = shapes[i];
        return feature_map_arguments<float, operand>{
            s, weight[i].data(), matrix_view<const float>(x[i].data(), rows, s.inputs * s.width),
            matrix_view<operand>(phi[i].data(), rows, s.heads * s.size())};
      };
      feature_map_forward(gpu, std::array{arguments(0, together), arguments(1, together)});
      for (const std::size_t i : {0, 1}) {
        feature_map_forward(gpu, arguments(i, alone));
        BOOST_TEST((together[i].numbers() == alone[i].numbers()), rows << " rows, map " << i);
      }
    }
}
/// Gradients of both at once, rotated back.
BOOST_AUTO_TEST_CASE_TEMPLATE(several_maps_turned, P, float_precisions) {
  device::basic_cuda<P> gpu;
  device::cpu cpu(2);
  using operand = operand_t<device::basic_cuda<P>, float>;
  constexpr auto limits = testing::cuda_tolerance::features;
  for (const index width : {64, 48})
    for (const index rows : {1, 65, 130, 5000})
      for (const double beta : {0.0, 1.0}) {
        const auto got = turned_gradients<float, operand>(gpu, rows, width, beta),
                   again = turned_gradients<float, operand>(gpu, rows, width, beta),
                   want = turned_gradients<double>(cpu, rows, width, beta);
        const std::string what = std::to_string(rows) + " rows, heads of " + std::to_string(width) + ": ";
        const char* names[] = {"turned of queries", "their dweight", "turned of keys", "their dweight"};
        for (std::size_t i = 0; i < 4; ++i)
          check_close((what + names[i]).c_str(), got[i], want[i], is_bf16<P> ? limits.bf16 : limits.fp32);
        BOOST_TEST((got == again), what << "another result");
      }
}
BOOST_AUTO_TEST_CASE_TEMPLATE(several_tiles_a_block, P, float_precisions) {
  device::basic_cuda<P> gpu;
  device::cpu cpu(2);
  for (const double beta : {0.0, 1.0}) {
    check_features(gpu, cpu, 400, feature_map_shape{176, 88, 16, 24, true}, beta, 0);
    check_features(gpu, cpu, 1250, feature_map_shape{44, 22, 64, 64, true}, beta, 0);
  }
}
BOOST_AUTO_TEST_CASE_TEMPLATE(runs_are_equal, P, float_precisions) {
  device::basic_cuda<P> gpu;
  const feature_map_shape s{44, 22, 64, 64, true};
  const auto first = features<float>(gpu, 1250, s, 0, 0);
  for (int run = 0; run < 3; ++run) BOOST_TEST((features<float>(gpu, 1250, s, 0, 0) == first));
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

BOOST_AUTO_TEST_CASE(gated_mixes) {
  device::cuda gpu;
  device::cpu cpu(2);
  for (const index width : {1, 6, 16, 64, 68, 128, 200})
    for (const index rows : {1, 2, 11, 130})
      for (const index slack : {0, 1, 4}) {
        const auto want = mixed<double>(cpu, rows, 3, width, slack);
        const std::string what = std::to_string(rows) + " rows, heads of " + std::to_string(width) +
                                 ", slack " + std::to_string(slack);
        check_close(what.c_str(), mixed<float>(gpu, rows, 3, width, slack), want,
                    testing::cuda_tolerance::features.fp32);
        check_close((what + ", rounded").c_str(), mixed<float, bf16>(gpu, rows, 3, width, slack), want,
                    testing::cuda_tolerance::features.bf16);
        check_close((what + ", r rounded, too").c_str(), mixed<float, bf16, bf16>(gpu, rows, 3, width, slack),
                    want, testing::cuda_tolerance::features.bf16);
      }
}
BOOST_AUTO_TEST_CASE(gradients_of_a_gated_mix) {
  device::cuda gpu;
  device::cpu cpu(2);
  for (const index width : {1, 6, 16, 62, 64, 68, 128, 200})
    for (const index rows : {1, 2, 130})
      for (const index slack : {0, 1, 4}) {
        const auto got = mix_gradients<float>(gpu, rows, 3, width, slack),
                   again = mix_gradients<float>(gpu, rows, 3, width, slack),
                   want = mix_gradients<double>(cpu, rows, 3, width, slack);
        const std::string what = std::to_string(rows) + " rows, heads of " + std::to_string(width) +
                                 ", slack " + std::to_string(slack) + ": ";
        const char* names[] = {"dr", "dw", "dgate", "h"};
        for (std::size_t i = 0; i < 4; ++i)
          check_close((what + names[i]).c_str(), got[i], want[i], testing::cuda_tolerance::features.fp32);
        BOOST_TEST((got == again), what << "another result");
        // dh, dr and h as products take them, r as they do, and no h.
        const auto rounded = mix_gradients<float, bf16>(gpu, rows, 3, width, slack),
                   all_rounded = mix_gradients<float, bf16, bf16>(gpu, rows, 3, width, slack);
        for (std::size_t i = 0; i < 4; ++i) {
          check_close((what + names[i] + " in bf16").c_str(), rounded[i], want[i],
                      testing::cuda_tolerance::features.bf16);
          check_close((what + names[i] + " in bf16, as r").c_str(), all_rounded[i], want[i],
                      testing::cuda_tolerance::features.bf16);
        }
        auto without = mix_gradients<float>(gpu, rows, 3, width, slack, false);
        without.pop_back();
        const std::vector<std::vector<double>> gradients(got.begin(), got.end() - 1);
        BOOST_TEST((without == gradients), what << "other gradients");
      }
}

BOOST_AUTO_TEST_CASE_TEMPLATE(rotated_heads, P, float_precisions) {
  device::basic_cuda<P> gpu;
  device::cpu cpu(2);
  for (const index half : {1, 4, 6, 12, 32, 64, 128})
    for (const index rows : {1, 3, 4, 5, 130})
      for (const index slack : {0, 1, 4, 8})
        for (const double direction : {1.0, -1.0}) {
          const std::string what = std::to_string(rows) + " rows, half a head of " + std::to_string(half) +
                                   ", slack " + std::to_string(slack);
          const auto turn = static_cast<float>(direction);
          const auto got = rotated<float>(gpu, rows, half, turn, slack),
                     rounded = rotated<float, bf16>(gpu, rows, half, turn, slack),
                     want = rotated<double>(cpu, rows, half, direction, slack);
          for (std::size_t i = 0; i < want.size(); ++i) {
            check_close(what.c_str(), got[i], want[i], testing::cuda_tolerance::features.fp32);
            check_close((what + ", rounded").c_str(), rounded[i], want[i],
                        testing::cuda_tolerance::features.bf16);
          }
        }
}

/// By norms. A gradient that is 0 but for rounding, as of queries, keys and gates where all that a token sees is
/// itself, is measured by the largest one.
BOOST_AUTO_TEST_CASE(hybrids_with_rounded_products) {
  device::basic_cuda<bf16_mixed> gpu;
  device::cpu cpu(2);
  constexpr double limit = testing::cuda_tolerance::features.bf16,
                   gates_limit = testing::cuda_tolerance::mlstm_forget;
  for (const index window : {0, 16, 64})
    for (const index time : {128, 130, 1}) {
      hybrid_attention block;
      block.base.width = 96, block.base.heads = 9, block.base.kv_heads = 3, block.base.head_dim = 64;
      block.base.window = window, block.base.sinks = window == 16 ? 2 : 0;
      const sequence_view seq{2, time, nullptr};
      const auto got = hybrid<float>(gpu, block, seq), want = hybrid<double>(cpu, block, seq);
      double largest = 0;
      for (std::size_t i = 2; i < want.size(); ++i) largest = std::max(largest, norm_of(want[i].second));
      for (std::size_t i = 0; i < want.size(); ++i) {
        const auto& [name, numbers] = want[i];
        const double size = norm_of(numbers);
        const double error =
            difference(got[i].second, numbers) / (i >= 2 && size <= 1e-5 * largest ? largest : size);
        const bool of_gates = name.find("gates") != name.npos;
        BOOST_TEST_MESSAGE("window " << window << ", time " << time << ", " << name << ": " << error);
        BOOST_TEST(error <= (of_gates ? gates_limit : limit),
                   "window " << window << ", time " << time << ": " << name << " is off by " << error);
      }
    }
}

}  // namespace distil_xlstm
