#pragma once

#include "cells.hpp"

namespace distil_xlstm::testing {

/// How far a cell in float leaves the one in double over a long text.
struct drift {
  bool finite = true;
  double worst = 0, largest = 0;  ///< max |difference|, max |h| in double

  double error() const { return largest > 0 ? worst / largest : worst; }
  template <class... X>
  void finite_only(const X&... x) {
    const auto all = [](const auto& v) {
      return std::all_of(v.begin(), v.end(), [](auto e) { return std::isfinite(e); });
    };
    finite = finite && (all(x) && ...);
  }
  template <class A, class B>
  void take(const A& in_float, const B& in_double) {
    finite_only(in_float, in_double);
    for (std::size_t i = 0; i < in_double.size(); ++i) {
      const double a = static_cast<double>(in_float[i]), b = in_double[i];
      worst = std::max(worst, std::abs(a - b));
      largest = std::max(largest, std::abs(b));
    }
  }
};

namespace detail {
/// Numbers that float and double share: what differs after them is arithmetic.
inline void uniform(rng& random, std::vector<double>& x, std::vector<float>& y, double low, double high) {
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = y[i] = static_cast<float>(random.uniform(low, high));
}
}  // namespace detail

/// What the gates of a long text are: uniform between bounds.
struct gate_range {
  double low_i, high_i, low_f, high_f;
};
inline constexpr gate_range extreme_gates{-80, 80, -80, 80}, long_memories{-2, 2, 8, 14};

/// mLSTM: one head of two numbers, the state carried from one call of `each` tokens to the next. Keys and
/// queries are positive: else the normaliser may vanish, where h has no digits in any arithmetic.
inline drift mlstm_drift(device::cpu& cpu, index steps, index each, gate_range gates = extreme_gates) {
  rng random(31);
  auto a = mlstm_run<double>::random(1, each, {1, 2, 2}, each);
  auto b = mlstm_run<float>::random(1, each, {1, 2, 2}, each);
  a.empty_state(), b.empty_state();
  drift d;
  for (index s = 0; s < steps; s += each) {
    detail::uniform(random, a.q, b.q, 0.1, 2), detail::uniform(random, a.k, b.k, 0.1, 2);
    detail::uniform(random, a.v, b.v, -2, 2);
    detail::uniform(random, a.i, b.i, gates.low_i, gates.high_i);
    detail::uniform(random, a.f, b.f, gates.low_f, gates.high_f);
    a.forward(cpu, kernels::fused, false), b.forward(cpu, kernels::fused, false);
    d.take(b.h, a.h), d.finite_only(a.c, b.c, a.n, b.n);
  }
  return d;
}

/// sLSTM: one head of four numbers, R = 0 (a recurrent map may be chaotic: float and double part whatever the
/// cell).
inline drift slstm_drift(device::cpu& cpu, index steps, index each, gate_range gates = extreme_gates) {
  rng random(32);
  auto a = slstm_run<double>::random(1, each, 1, 4, each);
  auto b = slstm_run<float>::random(1, each, 1, 4, each);
  for (auto* x : {&a.r, &a.bias, &a.state}) std::fill(x->begin(), x->end(), 0.0);
  for (auto* x : {&b.r, &b.bias, &b.state}) std::fill(x->begin(), x->end(), 0.0f);
  drift d;
  for (index s = 0; s < steps; s += each) {
    for (std::size_t j = 0; j < a.x.size(); ++j) {
      const bool input = j % 16 < 4, forget = j % 16 / 4 == 1;
      const double low = input ? gates.low_i : forget ? gates.low_f : -80;
      const double high = input ? gates.high_i : forget ? gates.high_f : 80;
      a.x[j] = b.x[j] = static_cast<float>(random.uniform(low, high));
    }
    a.forward(cpu), b.forward(cpu);
    d.take(b.h, a.h), d.finite_only(a.state, b.state);
  }
  return d;
}

}  // namespace distil_xlstm::testing
