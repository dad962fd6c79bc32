#include "gpu.hpp"

#include <cmath>
#include <limits>
#include <sstream>
#include <vector>

#include <distil_xlstm/core/rng.hpp>
#include <distil_xlstm/device/cpu.hpp>
#include <distil_xlstm/device/cuda.cuh>
#include <distil_xlstm/op/norm/op.hpp>
#include <distil_xlstm/testing/tolerances.hpp>

// The GPU's norms against the CPU's in double.
namespace distil_xlstm {
namespace {

device::cpu& cpu() {
  static device::cpu device(2);
  return device;
}

struct norm_problem {
  index rows, groups, width, padding, offset;
  bool subtract_mean, residual_weight;
};

/// Random numbers about `mean` on both devices, in rows that `padding` parts.
template <class T>
struct both {
  std::vector<double> host;
  buffer<T, device::cuda> card;
  index rows, cols, stride, offset;
  both(device::cuda& gpu, index r, index c, const norm_problem& p, rng& random, double mean)
      : host(static_cast<std::size_t>(r * c)),
        card(gpu, r * (c + p.padding) + p.offset),
        rows(r),
        cols(c),
        stride(c + p.padding),
        offset(p.offset) {
    std::vector<T> there(static_cast<std::size_t>(card.size()), std::numeric_limits<T>::quiet_NaN());
    for (index i = 0; i < r * c; ++i) {
      const auto x = static_cast<float>(mean + random.normal());
      host[static_cast<std::size_t>(i)] = x;
      there[static_cast<std::size_t>(offset + i / c * stride + i % c)] = x;
    }
    gpu.upload(card.data(), there.data(), card.size() * static_cast<index>(sizeof(T)));
    gpu.wait();
  }
  matrix_view<double> on_host() { return {host.data(), rows, cols}; }
  matrix_view<T> on_card() const { return {card.data() + offset, rows, cols, stride}; }
  double error(device::cuda& gpu) const {
    std::vector<T> there(static_cast<std::size_t>(card.size()));
    gpu.download(there.data(), card.data(), card.size() * static_cast<index>(sizeof(T)));
    double worst = 0, largest = 0;
    for (index i = 0; i < rows * cols; ++i) {
      const double x = host[static_cast<std::size_t>(i)];
      const double e = std::abs(there[static_cast<std::size_t>(offset + i / cols * stride + i % cols)] - x);
      if (!(e <= worst)) worst = std::isnan(e) ? INFINITY : e;
      largest = std::max(largest, std::abs(x));
    }
    return largest > 0 ? worst / largest : worst;
  }
};

/// What a layer may make of a norm.
struct mixture {
  template <class V>
  DISTIL_XLSTM_HD V operator()(V scale, V u, V x, V w) const {
    return scale * u * x + w;
  }
};

template <class T>
void compare(device::cuda& gpu, const norm_problem& p, double limit) {
  static std::uint64_t seed = 1;
  rng random(seed++);
  const index cols = p.groups * p.width;
  const norm_problem plain{0, 0, 0, 0, p.offset, false, false};
  both<T> x(gpu, p.rows, cols, p, random, 0.5), dy(gpu, p.rows, cols, p, random, 0.1),
      y(gpu, p.rows, cols, p, random, 0), z(gpu, p.rows, cols, p, random, 0),
      y_and_skip(gpu, p.rows, cols, p, random, 0), dx(gpu, p.rows, cols, p, random, 0),
      skip(gpu, p.rows, cols, p, random, 0), sum(gpu, p.rows, cols, p, random, 0),
      weight(gpu, 1, cols, plain, random, 1), dw(gpu, 1, cols, plain, random, 0),
      statistics(gpu, p.rows * p.groups, 2, plain, random, 0),
      again(gpu, p.rows * p.groups, 2, plain, random, 0);
  const auto run = [&](auto& d, auto view, auto in, auto* kept, auto* second, auto out, auto gradient,
                       auto* to_weight, auto to, auto beside, auto with, auto mixed, auto added) {
    norm_forward(d, view, in, kept, out);
    norm_forward(d, view, in, kept, added, beside);
    norm_transform(d, view, in, kept, mixed, mixture{}, gradient, broadcast(view.weight));
    norm_statistics(d, view, in, second);
    norm_backward(d, view, in, kept, gradient, to_weight, to);
    norm_backward(d, view, in, kept, gradient, to_weight, with, beside);
  };
  run(cpu(), norm_view<double>{p.groups, p.width, p.subtract_mean, p.residual_weight, 1e-5, weight.host.data()},
      matrix_view<const double>(x.on_host()), statistics.host.data(), again.host.data(), y.on_host(),
      matrix_view<const double>(dy.on_host()), dw.host.data(), dx.on_host(), skip.on_host(), sum.on_host(),
      z.on_host(), y_and_skip.on_host());
  run(gpu, norm_view<T>{p.groups, p.width, p.subtract_mean, p.residual_weight, T(1e-5), weight.on_card().data},
      matrix_view<const T>(x.on_card()), statistics.on_card().data, again.on_card().data, y.on_card(),
      matrix_view<const T>(dy.on_card()), dw.on_card().data, dx.on_card(), skip.on_card(), sum.on_card(),
      z.on_card(), y_and_skip.on_card());
  std::ostringstream what;
  what << "rows " << p.rows << " groups " << p.groups << " width " << p.width << " padding " << p.padding
       << " offset " << p.offset << (p.subtract_mean ? " mean" : "") << (p.residual_weight ? " 1 + w" : "");
  double worst = 0;
  const auto check = [&](const char* name, const both<T>& m, double most) {
    const double e = m.error(gpu);
    worst = std::max(worst, e);
    BOOST_TEST(e <= most, what.str() << ": " << name << " is off by " << e);
  };
  check("y", y, p.width < 16 ? 4 * limit : limit);
  check("y and what is added", y_and_skip, p.width < 16 ? 4 * limit : limit);
  check("what follows", z, p.width < 16 ? 4 * limit : limit);
  check("statistics", statistics, limit);
  check("statistics alone", again, limit);
  check("dx", dx, p.width < 4 ? 1e3 * limit : 10 * limit);  // of few numbers, little is left
  check("dx and what is added", sum, p.width < 4 ? 1e3 * limit : 10 * limit);
  check("dw", dw, 10 * limit);
  const cudaError_t status = cudaGetLastError();
  BOOST_TEST(status == cudaSuccess, what.str() << ": " << cudaGetErrorString(status));
  BOOST_TEST_MESSAGE(what.str() << ": " << worst);
}

}  // namespace

BOOST_AUTO_TEST_CASE(norms_in_float) {
  device::cuda gpu;
  for (const index width :
       {3, 7, 48, 128, 132, 256, 576, 577, 640, 896, 1024, 1025, 1536, 2048, 4096, 5000, 8192, 8200})
    for (const index rows : {1, 5, 300})
      for (const auto kind : {std::pair{true, true}, std::pair{true, false}, std::pair{false, false}})
        compare<float>(gpu, {rows, 1, width, 0, 0, kind.first, kind.second}, testing::cuda_tolerance::norm);
}
BOOST_AUTO_TEST_CASE(norms_of_groups) {
  device::cuda gpu;
  for (const index groups : {3, 4, 16})
    for (const index width : {16, 21, 64, 256, 288, 1200})
      for (const index padding : {0, 4, 5})
        for (const index offset : {0, 1})
          compare<float>(gpu, {200, groups, width, padding, offset, true, groups % 2 == 0},
                         testing::cuda_tolerance::norm);
}
BOOST_AUTO_TEST_CASE(norms_of_many_rows) {
  device::cuda gpu;
  compare<float>(gpu, {20000, 1, 576, 0, 0, false, false}, testing::cuda_tolerance::norm);
  compare<float>(gpu, {20000, 4, 96, 0, 0, true, true}, testing::cuda_tolerance::norm);
  compare<float>(gpu, {3000, 1, 3584, 0, 0, false, false}, testing::cuda_tolerance::norm);
}
BOOST_AUTO_TEST_CASE(norms_in_double) {
  device::cuda gpu;
  compare<double>(gpu, {70, 4, 96, 3, 1, true, true}, 1e-13);
  compare<double>(gpu, {70, 1, 577, 0, 0, false, false}, 1e-13);
}

}  // namespace distil_xlstm
