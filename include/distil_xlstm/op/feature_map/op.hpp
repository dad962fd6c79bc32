#pragma once

#include <array>
#include <cmath>
#include <cstddef>

#include <distil_xlstm/core/view.hpp>
#include <distil_xlstm/device/device.hpp>
#include <distil_xlstm/device/fold_into.hpp>
#include <distil_xlstm/math/log_sum_exp.hpp>
#include <distil_xlstm/math/sum.hpp>
#include <distil_xlstm/op/rotary/op.hpp>

namespace distil_xlstm {

/// Sizes of a softmax feature map: `heads` maps of `width` numbers to `features`, or twice as many with `both`
/// signs; each `heads / inputs` of them read the same input.
struct feature_map_shape {
  /// @{ Maps, inputs that they read, numbers of an input, and features of one sign.
  index heads = 1, inputs = 1, width = 0, features = 0;
  /// @}
  bool both = true;  ///< features of -x beside those of x
  /// Heads that read the same input.
  DISTIL_XLSTM_HD constexpr index group() const { return heads / inputs; }
  /// Numbers of one head's result.
  DISTIL_XLSTM_HD constexpr index size() const { return both ? 2 * features : features; }
};

/// phi_h(x) = [softmax(x W_h), softmax(-x W_h)] of each head (Zhang et al. 2024, Hedgehog, arXiv 2402.04347; without
/// `both` its first half): positive, and 1 in sum a half. `Operand`: what phi is stored as, which products read
/// (`operand_t`).
template <class T, class Operand = T>
struct feature_map_arguments {
  feature_map_shape shape;   ///< sizes
  const T* weight;           ///< [heads, width, features]
  matrix_view<const T> x;    ///< [rows, inputs * width]
  matrix_view<Operand> phi;  ///< [rows, heads * size()]
};
/// dx = beta dx + its gradient by x; dweight += that by the weight. dphi is stored as phi is. With `turned`, for x that
/// had been rotated: turned = dx rotated by `angles`, and what dx then holds is not said.
template <class T, class Operand = T>
struct feature_map_backward_arguments {
  feature_map_arguments<T, Operand> forward;  ///< as forward had them, phi as it gave it
  matrix_view<const Operand> dphi;            ///< [rows, heads * size()]
  matrix_view<T> dx;                          ///< [rows, inputs * width]
  T beta;                                     ///< 0: dx is overwritten
  T* dweight;                                 ///< [heads, width, features], added to
  rotary_angles<T> angles{};                  ///< of the rows, of pairs of an input's numbers
  matrix_view<Operand> turned{};              ///< [rows, inputs * width], or nothing
};

namespace detail {

/// The largest number and 1 / the sum of each softmax: [rows * heads, 4], of z and of -z.
template <class T>
struct feature_statistics {
  using scalar = T;
  feature_map_shape shape;
  matrix_view<const T> z;  ///< [rows, heads * features]
  T* statistics;
  template <class V>
  struct acc {
    math::log_sum_exp<V> plus, minus;
  };
  template <class V>
  DISTIL_XLSTM_HD acc<V> init() const {
    return {math::log_sum_exp<V>::empty(), math::log_sum_exp<V>::empty()};
  }
  template <class V>
  DISTIL_XLSTM_HD void visit(acc<V>& a, index r, index c) const {
    const V x = math::load<V>(z.row(r / shape.heads) + r % shape.heads * shape.features + c);
    math::push(a.plus, math::clamp_min(x));
    if (shape.both) math::push(a.minus, math::clamp_min(-x));
  }
  DISTIL_XLSTM_HD void merge(acc<T>& into, const acc<T>& from) const {
    math::join(into.plus, from.plus), math::join(into.minus, from.minus);
  }
  DISTIL_XLSTM_HD void finish(index r, const acc<T>& a) const {
    T* s = statistics + 4 * r;
    s[0] = a.plus.max, s[1] = T(1) / a.plus.sum;
    s[2] = a.minus.max, s[3] = T(1) / a.minus.sum;
  }
};
template <class T, class Operand>
struct feature_values {
  using scalar = T;
  feature_map_shape shape;
  matrix_view<const T> z;
  const T* statistics;
  matrix_view<Operand> phi;
  template <class V>
  DISTIL_XLSTM_HD void operator()(index r, index c) const {
    using std::exp;
    const index row = r / shape.heads, head = r % shape.heads;
    const T* s = statistics + 4 * r;
    const V x = math::load<V>(z.row(row) + head * shape.features + c);
    Operand* out = phi.row(row) + head * shape.size() + c;
    math::store<V>(out, exp(x - V(s[0])) * V(s[1]));
    if (shape.both) math::store<V>(out + shape.features, exp(-x - V(s[2])) * V(s[3]));
  }
};

/// sum phi dphi of each softmax: [rows * heads, 2].
template <class T, class Operand>
struct feature_gradient_sums : fold_into<math::two_sums, T> {
  feature_map_shape shape;
  matrix_view<const Operand> phi, dphi;
  T* sums;
  template <class V>
  DISTIL_XLSTM_HD void visit(math::two_sums<V>& a, index r, index c) const {
    const index row = r / shape.heads, at = r % shape.heads * shape.size() + c;
    const Operand *p = phi.row(row) + at, *g = dphi.row(row) + at;
    const auto product = [p, g](index i) { return math::load<V>(p + i) * math::load<V>(g + i); };
    push(a, product(0), shape.both ? product(shape.features) : V(0));
  }
  DISTIL_XLSTM_HD void finish(index r, const math::two_sums<T>& a) const {
    sums[2 * r] = a.first, sums[2 * r + 1] = a.second;
  }
};
/// dz = p (dp - sum p dp) of the softmax of z, less the same of -z.
template <class T, class Operand>
struct feature_input_gradient {
  using scalar = T;
  feature_map_shape shape;
  matrix_view<const Operand> phi, dphi;
  const T* sums;
  matrix_view<T> dz;
  template <class V>
  DISTIL_XLSTM_HD void operator()(index r, index c) const {
    const index row = r / shape.heads, head = r % shape.heads, at = head * shape.size() + c;
    const Operand *p = phi.row(row) + at, *g = dphi.row(row) + at;
    V d = math::load<V>(p) * (math::load<V>(g) - V(sums[2 * r]));
    if (shape.both)
      d = d - math::load<V>(p + shape.features) * (math::load<V>(g + shape.features) - V(sums[2 * r + 1]));
    math::store<V>(dz.row(row) + head * shape.features + c, d);
  }
};

}  // namespace detail

/// Writes phi. The default of any device. Of the heads that share an input, the first of every input is one batch of
/// products, then the second, and so on.
template <class D, class T, class Operand>
void feature_map_forward(D& d, const feature_map_arguments<T, Operand>& a) {
  const feature_map_shape& s = a.shape;
  const index rows = a.x.rows, n = s.width, f = s.features, group = s.group();
  auto memory = d.template scratch<T>(rows * s.heads * (f + 4));
  const matrix_view<T> z(memory.data(), rows, s.heads * f);
  T* statistics = memory.data() + z.size();
  for (index j = 0; j < group; ++j)
    gemm_batched(d, s.inputs, a.x.columns(0, n), n, matrix_view<const T>(a.weight + j * n * f, n, f),
                 group * n * f, z.columns(j * f, f), group * f);
  fold_rows(d, rows * s.heads, f, detail::feature_statistics<T>{s, z, statistics});
  map(d, rows * s.heads, f, detail::feature_values<T, Operand>{s, z, statistics, a.phi});
}
/// Several, none of which reads what another writes. The default of any device.
template <class D, class T, class Operand, std::size_t N>
void feature_map_forward(D& d, const std::array<feature_map_arguments<T, Operand>, N>& several) {
  for (const auto& a : several) feature_map_forward(d, a);
}
/// The gradients. The default of any device, in batches as forward.
template <class D, class T, class Operand>
void feature_map_backward(D& d, const feature_map_backward_arguments<T, Operand>& g) {
  const auto& a = g.forward;
  const feature_map_shape& s = a.shape;
  const index rows = a.x.rows, n = s.width, f = s.features, group = s.group();
  auto memory = d.template scratch<T>(rows * s.heads * (f + 2));
  const matrix_view<T> dz(memory.data(), rows, s.heads * f);
  T* sums = memory.data() + dz.size();
  fold_rows(d, rows * s.heads, f, detail::feature_gradient_sums<T, Operand>{{}, s, a.phi, g.dphi, sums});
  map(d, rows * s.heads, f, detail::feature_input_gradient<T, Operand>{s, a.phi, g.dphi, sums, dz});
  for (index j = 0; j < group; ++j) {
    const matrix_view<const T> part = dz.columns(j * f, f);
    gemm_batched(d, s.inputs, part, group * f, transposed(matrix_view<const T>(a.weight + j * n * f, n, f)),
                 group * n * f, g.dx.columns(0, n), n, j > 0 ? T(1) : g.beta);
    gemm_batched(d, s.inputs, transposed(a.x.columns(0, n)), n, part, group * f,
                 matrix_view<T>(g.dweight + j * n * f, n, f), group * n * f, T(1));
  }
  if (g.turned.data) rotate_heads(d, g.angles, rotary_heads<T, Operand>{g.dx, g.turned});
}
/// Of several, none of which reads or adds to what another writes. The default of any device.
template <class D, class T, class Operand, std::size_t N>
void feature_map_backward(D& d, const std::array<feature_map_backward_arguments<T, Operand>, N>& several) {
  for (const auto& g : several) feature_map_backward(d, g);
}

}  // namespace distil_xlstm
