#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <map>
#include <string>
#include <type_traits>
#include <vector>

#include <distil_xlstm/core/rng.hpp>
#include <distil_xlstm/device/cpu.hpp>

#include "tensor_error.hpp"

namespace distil_xlstm::testing {

/// The CPU, but what products, cells and element-wise functions leave in memory, and what cells read of gradients, is
/// off by up to the last digit of a float: in double arithmetic, what storing floats does to float arithmetic.
struct shaken_cpu : device::cpu {
  explicit shaken_cpu(std::uint64_t seed) : device::cpu(1), random(seed) {}
  rng random;

  template <class T>
  void shake(matrix_view<T> x) {
    for (index r = 0; r < x.rows; ++r)
      for (index c = 0; c < x.cols; ++c) x.row(r)[c] *= static_cast<T>(1 + random.uniform(-0x1p-23, 0x1p-23));
  }
  template <class T>
  matrix_view<const T> copy_of(matrix_view<const T> x, std::vector<T>& memory) {
    memory.resize(static_cast<std::size_t>(x.size()));
    const matrix_view<T> out(memory.data(), x.rows, x.cols);
    for (index r = 0; r < x.rows; ++r) std::copy_n(x.row(r), x.cols, out.row(r));
    shake(out);
    return out;
  }
};
template <class A, class B, class T>
void gemm(shaken_cpu& d, A a, B b, matrix_view<T> c, std::type_identity_t<T> beta = 0) {
  gemm(static_cast<device::cpu&>(d), a, b, c, beta);
  d.shake(c);
}
template <class A, class B, class T>
void gemm_batched(shaken_cpu& d, index count, A a, index step_a, B b, index step_b, matrix_view<T> c,
                  index step_c, std::type_identity_t<T> beta = 0) {
  gemm_batched(static_cast<device::cpu&>(d), count, a, step_a, b, step_b, c, step_c, beta);
  for (index i = 0; i < count; ++i) d.shake(matrix_view<T>(c.data + i * step_c, c.rows, c.cols, c.stride));
}
/// The outputs of `transform`.
template <class F>
void map(shaken_cpu& d, index rows, index cols, const F& f) {
  map(static_cast<device::cpu&>(d), rows, cols, f);
  if constexpr (requires { f.y.first; }) {
    d.shake(f.y.first);
    if constexpr (requires { f.y.rest; }) d.shake(f.y.rest.first);
    if constexpr (requires { f.y.rest.rest; }) d.shake(f.y.rest.rest.first);
  }
}
template <class T>
void mlstm_forward(shaken_cpu& d, const mlstm_arguments<T>& a) {
  mlstm_forward(static_cast<device::cpu&>(d), a);
  d.shake(a.h);
}
template <class T>
void mlstm_backward(shaken_cpu& d, mlstm_backward_arguments<T> a) {
  std::vector<T> memory;
  a.dh = d.copy_of(a.dh, memory);
  mlstm_backward(static_cast<device::cpu&>(d), a);
  for (const auto& x : std::initializer_list<matrix_view<T>>{a.dq, a.dk, a.dv, a.di, a.df}) d.shake(x);
}
template <class T>
void slstm_forward(shaken_cpu& d, const slstm_arguments<T>& a) {
  slstm_forward(static_cast<device::cpu&>(d), a);
  d.shake(a.states.columns(0, a.width()));
}
template <class T>
void slstm_backward(shaken_cpu& d, slstm_backward_arguments<T> a, T* carry) {
  std::vector<T> memory;
  a.dh = d.copy_of(a.dh, memory);
  slstm_backward(static_cast<device::cpu&>(d), a, carry);
  d.shake(a.raw);
}

/// Numbers of a device that the test owns, shaken where it shakes.
template <class D, class T>
void shake(D& d, T* data, index n) {
  if constexpr (std::is_same_v<D, shaken_cpu>) d.shake(matrix_view<T>(data, 1, n));
}

template <class T>
using named_numbers = std::map<std::string, std::vector<T>>;

/// How far each tensor of `numbers(device)`, computed in double, moves when everything is off by up to a digit
/// of float: the worst of eight times. Float arithmetic cannot be expected to do better.
template <class Numbers>
std::map<std::string, double> conditions(const Numbers& numbers) {
  device::cpu cpu(1);
  const named_numbers<double> still = numbers(cpu);
  std::map<std::string, double> out;
  for (std::uint64_t seed = 1; seed <= 8; ++seed) {
    shaken_cpu shaken(seed);
    for (const auto& [name, x] : numbers(shaken))
      out[name] = std::max(out[name], relative_error(x, still.at(name)));
  }
  return out;
}

}  // namespace distil_xlstm::testing
