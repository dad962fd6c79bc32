#pragma once

#include <distil_xlstm/core/sequence.hpp>
#include <distil_xlstm/core/view.hpp>
#include <distil_xlstm/math/slstm_cell.hpp>

namespace distil_xlstm {

/// The recurrent memory of sLSTM, h c n m per channel.
template <class T>
struct slstm_state {
  batched_state<T> hcnm;  ///< [4, width]
};

/// What the time loop reads and writes. Gates lie as i, f, z, o, each `width` wide; a head is a run of `head_dim`
/// channels.
template <class T>
struct slstm_arguments {
  sequence_view seq;  ///< of the call
  /// @{ Heads, and channels of each.
  index heads, head_dim;
  /// @}
  const T* recurrent;      ///< [heads, 4 head_dim, head_dim], rows i f z o
  const T* bias;           ///< [4 width]
  matrix_view<T> raw;      ///< [rows, 4 width] in: input contributions; out: pre-activations
  matrix_view<T> states;   ///< [rows, 4 width] h c n m after each step
  T* initial;              ///< [batch, 4 width] the state before the first step
  batched_state<T> state;  ///< [4, width] h c n m before the call; advanced
  /// Channels of all heads.
  DISTIL_XLSTM_HD index width() const { return heads * head_dim; }
};

/// The same for the way back.
template <class T>
struct slstm_backward_arguments {
  sequence_view seq;  ///< of the call
  /// @{ Heads, and channels of each.
  index heads, head_dim;
  /// @}
  const T* recurrent;           ///< [heads, 4 head_dim, head_dim], rows i f z o
  matrix_view<T> raw;           ///< [rows, 4 width] in: pre-activations; out: their gradients
  matrix_view<const T> states;  ///< [rows, 4 width] as forward left them
  const T* initial;             ///< [batch, 4 width] as forward left it
  matrix_view<const T> dh;      ///< [rows, width]
  /// Channels of all heads.
  DISTIL_XLSTM_HD index width() const { return heads * head_dim; }
};

namespace detail {

/// The state before step t of sequence b: zeros at a document's start, the initial state at t = 0.
template <class T, class A>
DISTIL_XLSTM_HD const T* slstm_before(const A& a, index b, index t) {
  if (a.seq.begins(b, t)) return nullptr;
  return t == 0 ? a.initial + b * 4 * a.width() : a.states.row(b * a.seq.time + t - 1);
}

/// The oracle: one sequence and head after another, one number at a time.
template <class T>
struct slstm_forward_task {
  slstm_arguments<T> a;
  DISTIL_XLSTM_HD void operator()(index task) const {
    const index b = task / a.heads, first = task % a.heads * a.head_dim, width = a.width();
    T* state = a.state.of(b);
    for (index s = 0; s < 4; ++s)
      for (index j = first; j < first + a.head_dim; ++j)
        a.initial[b * 4 * width + s * width + j] = state[s * width + j];
    for (index t = 0; t < a.seq.time; ++t) {
      T* raw = a.raw.row(b * a.seq.time + t);
      T* out = a.states.row(b * a.seq.time + t);
      const T* before = slstm_before<T>(a, b, t);
      const T* r = a.recurrent + first * 4 * a.head_dim;
      for (index g = 0; g < 4; ++g)
        for (index j = 0; j < a.head_dim; ++j, r += a.head_dim) {
          T sum = a.bias[g * width + first + j];
          if (before)
            for (index k = 0; k < a.head_dim; ++k) sum += r[k] * before[first + k];
          raw[g * width + first + j] += sum;
        }
      for (index j = first; j < first + a.head_dim; ++j) {
        const auto s = math::slstm_cell<T>(
            raw[j], raw[width + j], raw[2 * width + j], raw[3 * width + j], before ? before[width + j] : T(0),
            before ? before[2 * width + j] : T(0), before ? before[3 * width + j] : T(0));
        out[j] = s.h, out[width + j] = s.c, out[2 * width + j] = s.n, out[3 * width + j] = s.m;
      }
    }
    const T* last = a.states.row(b * a.seq.time + a.seq.time - 1);
    for (index s = 0; s < 4; ++s)
      for (index j = first; j < first + a.head_dim; ++j) state[s * width + j] = last[s * width + j];
  }
};

template <class T>
struct slstm_backward_task {
  slstm_backward_arguments<T> a;
  T* carry;  ///< [batch, 3 width]
  DISTIL_XLSTM_HD void operator()(index task) const {
    const index b = task / a.heads, first = task % a.heads * a.head_dim, width = a.width();
    T *dh = carry + b * 3 * width, *dc = dh + width, *dn = dc + width;
    for (index t = a.seq.time - 1; t >= 0; --t) {
      const index row = b * a.seq.time + t;
      T* raw = a.raw.row(row);
      const T* before = slstm_before<T>(a, b, t);
      for (index j = first; j < first + a.head_dim; ++j) {
        const T c0 = before ? before[width + j] : T(0), n0 = before ? before[2 * width + j] : T(0);
        const auto s = math::slstm_cell<T>(raw[j], raw[width + j], raw[2 * width + j], raw[3 * width + j], c0,
                                           n0, before ? before[3 * width + j] : T(0));
        const auto g = math::slstm_cell_backward<T>(s, c0, n0, dh[j] + a.dh.row(row)[j], dc[j], dn[j]);
        raw[j] = g.i, raw[width + j] = g.f, raw[2 * width + j] = g.z, raw[3 * width + j] = g.o;
        dc[j] = before ? g.c : T(0), dn[j] = before ? g.n : T(0), dh[j] = 0;
      }
      if (!before) continue;
      const T* r = a.recurrent + first * 4 * a.head_dim;
      for (index g = 0; g < 4; ++g)
        for (index j = 0; j < a.head_dim; ++j, r += a.head_dim)
          for (index k = 0; k < a.head_dim; ++k) dh[first + k] += r[k] * raw[g * width + first + j];
    }
  }
};

/// h before each step, for dR: zeros at a document's start. Stored as S's.
template <class T, class S = T>
struct slstm_previous_h {
  using scalar = T;
  slstm_backward_arguments<T> a;
  matrix_view<S> previous;
  template <class V>
  DISTIL_XLSTM_HD void operator()(index r, index c) const {
    const T* before = slstm_before<T>(a, r / a.seq.time, r % a.seq.time);
    math::store<V>(previous.row(r) + c, math::load_if<V>(before != nullptr, before ? before + c : nullptr));
  }
};

}  // namespace detail

/// The sLSTM time loop (math/slstm_cell.hpp; Beck et al. 2024, arXiv 2405.04517) over sequences and heads. The default
/// of any device; a device with better overloads it.
template <class D, class T>
void slstm_forward(D& d, const slstm_arguments<T>& a) {
  parallel_for(d, a.seq.batch * a.heads, detail::slstm_forward_task<T>{a});
}

/// Its way back: pre-activation gradients into `raw`, and through time into `carry`, [batch, 3 width] dh, dc,
/// dn: in, of the last state; out, of the initial one.
template <class D, class T>
void slstm_backward(D& d, const slstm_backward_arguments<T>& a, T* carry) {
  parallel_for(d, a.seq.batch * a.heads, detail::slstm_backward_task<T>{a, carry});
}

}  // namespace distil_xlstm
