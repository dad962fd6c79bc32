#pragma once

#include <distil_xlstm/math/log_sum_exp.hpp>
#include <distil_xlstm/math/numeric.hpp>

namespace distil_xlstm::math {

/// One sLSTM step of one channel, from pre-activations i~ f~ z~ o~ and the state c' n' m' before it.
///
///     lf = m' + log sigmoid(f~)
///     m  = i~ if n' = 0 else max(i~, lf)
///     i  = min(exp(i~ - m), 1)      f = min(exp(lf - m), 1)
///     z  = tanh(z~)                 o = sigmoid(o~)
///     c  = f c' + i z               n = f n' + i
///     h  = o c / n
///
/// The n' = 0 rule holds per element, so that a reset sequence starts exactly like a new one
/// (Beck et al. 2024, arXiv 2405.04517, in the form of the reference's kernels).
template <class V>
struct slstm_step {
  /// @{ The state after.
  V h, c, n, m;
  /// @}
  /// @{ Gates, and `slope` = d log sigmoid(f~) / d f~ = sigmoid(-f~).
  V i, f, z, o, slope;
  /// @}
};

/// The step of the pre-activations i~ f~ z~ o~ from the state c' n' m', as slstm_step says.
template <class V>
DISTIL_XLSTM_HD slstm_step<V> slstm_cell(V raw_i, V raw_f, V raw_z, V raw_o, V c0, V n0, V m0) {
  using std::exp;
  using std::tanh;
  slstm_step<V> s;
  const V lf = m0 + log_sigmoid(raw_f);
  s.m = select_positive(n0, max(raw_i, lf), raw_i);
  s.i = min(exp(raw_i - s.m), V(1));
  // Where n' = 0 the forget gate meets zeros only; the clamp keeps it finite there.
  s.f = min(exp(lf - s.m), V(1));
  s.z = tanh(raw_z);
  s.o = sigmoid(raw_o);
  s.slope = sigmoid(-raw_f);
  s.c = s.f * c0 + s.i * s.z;
  s.n = s.f * n0 + s.i;
  s.h = s.o * s.c / s.n;
  return s;
}

/// The h of slstm_cell alone, for a recurrence whose next step waits for h and for nothing else of the cell: a chain of
/// two exp in a row where slstm_cell has log1p of exp, then exp again. It is c and n over f,
///
///     r = i / f = exp(i~ - m') (1 + exp(-f~))      h = o (c' + r z) / (n' + r)
///
/// within limits of r, at which the smaller summands are no more seen: n' is 1 at least after the first step, and 0
/// with c' before it. NaN where one of all these is; none is infinite.
template <class V>
DISTIL_XLSTM_HD V slstm_hidden(V raw_i, V raw_f, V raw_z, V raw_o, V c0, V n0, V m0) {
  using std::exp;
  using std::tanh;
  constexpr scalar_of<V> large = 0x1p100f, small = 0x1p-100f;
  const V d = raw_i - m0;
  const V r = min(V(large), not_below(exp(d) + exp(d - raw_f), V(small)));  // NaN where it is
  return sigmoid(raw_o) * (c0 + r * tanh(raw_z)) / (n0 + r);
}

/// Gradients of the pre-activations, and of the state before; m is a constant, exactly: h does not depend on it.
template <class V>
struct slstm_gradient {
  /// @{ By i~ f~ z~ o~, and by c' and n'.
  V i, f, z, o, c, n;
  /// @}
};

/// The way back through the step `s`, which began from c0 and n0. `dh` is the whole gradient of h at this step, `dc`
/// and `dn` are those of c and n that come from the step after.
template <class V>
DISTIL_XLSTM_HD slstm_gradient<V> slstm_cell_backward(const slstm_step<V>& s, V c0, V n0, V dh, V dc, V dn) {
  const V over_n = V(1) / s.n;
  const V dct = dc + dh * s.o * over_n;
  const V dnt = dn - dh * s.h * over_n;
  slstm_gradient<V> g;
  g.i = s.i * (s.z * dct + dnt);
  g.f = s.f * (c0 * dct + n0 * dnt) * s.slope;
  g.z = dct * s.i * (V(1) - s.z * s.z);
  g.o = dh * s.h * (V(1) - s.o);
  g.c = s.f * dct;
  g.n = s.f * dnt;
  return g;
}

}  // namespace distil_xlstm::math
