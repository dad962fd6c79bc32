#pragma once

#include <cstdint>

#include <distil_xlstm/core/sequence.hpp>
#include <distil_xlstm/core/view.hpp>
#include <distil_xlstm/device/column_sums.hpp>
#include <distil_xlstm/device/device.hpp>
#include <distil_xlstm/device/scratch_layout.hpp>
#include <distil_xlstm/device/transform.hpp>
#include <distil_xlstm/math/activation.hpp>
#include <distil_xlstm/math/numeric.hpp>

namespace distil_xlstm {

namespace detail {

/// The input of a causal window: rows of this call, and before them the last window - 1 inputs of earlier
/// calls.
template <class T, index Window = dynamic>
struct window_view {
  sequence_view seq;
  [[no_unique_address]] extent<Window> window;
  index width;
  matrix_view<const T> x;
  const T* past;  ///< [batch, window - 1, width], oldest first, zeros where there is none

  /// The first tap that the token at time t of sequence b sees: those before it lie in another document, or
  /// further back than the past that is kept (which holds zeros where there was nothing).
  DISTIL_XLSTM_HD index first_tap(index b, index t) const {
    const index start = seq.document_start(b, t), back = start < 0 ? window - 1 : t - start;
    return back < window - 1 ? window - 1 - back : 0;
  }
  /// The input that tap j of the token at time t reads.
  DISTIL_XLSTM_HD const T* input(index b, index t, index j) const {
    const index from = t - (window - 1) + j;
    return from >= 0 ? x.row(b * seq.time + from) : past + (b * (window - 1) + from + window - 1) * width;
  }
};

/// [width, 1, window] to [window, width], so that neighbours in a row are neighbours in memory.
template <class T>
struct tap_major {
  using scalar = T;
  index window, width;
  const T* weight;
  T* taps;
  template <class V>
  DISTIL_XLSTM_HD void operator()(index j, index c) const {
    for (index i = c; i < c + math::width_of<V>; ++i) taps[j * width + i] = weight[i * window + j];
  }
};

template <class T, index Window>
struct conv_forward {
  using scalar = T;
  window_view<T, Window> in;
  const T* taps;
  const T* bias;
  matrix_view<T> y;
  template <class V>
  DISTIL_XLSTM_HD void operator()(index r, index c) const {
    const index b = r / in.seq.time, t = r % in.seq.time;
    V sum = math::load<V>(bias + c);
    const index first = in.first_tap(b, t);
    for (index j = Window == dynamic ? first : 0; j < in.window; ++j)
      if (j >= first) sum = sum + math::load<V>(taps + j * in.width + c) * math::load<V>(in.input(b, t, j) + c);
    math::store<V>(y.row(r) + c, sum);
  }
};

/// Keeps what the next call will look back at: row b is sequence b.
template <class T>
struct conv_keep_past {
  using scalar = T;
  sequence_view seq;
  index window, width;
  matrix_view<const T> x;
  batched_state<T> past;
  T* before;  ///< tape: the past as it was, [batch, window - 1, width]
  template <class V>
  DISTIL_XLSTM_HD void operator()(index b, index c) const {
    T* now = past.of(b) + c;
    T* old = before + b * (window - 1) * width + c;
    const index last = seq.document_start(b, seq.time - 1);
    // Row i becomes a later one, of x or of the past: in this order, those of the past are still there.
    for (index i = 0; i < window - 1; ++i) {
      const index t = seq.time - (window - 1) + i;
      math::store<V>(old + i * width, math::load<V>(now + i * width));
      const T* from = t >= 0 ? x.row(b * seq.time + t) + c : now + (t + window - 1) * width;
      math::store<V>(now + i * width, math::load_if<V>(t >= 0 ? t >= last : last < 0, from));
    }
  }
  /// For a device with copies of operands: all else stays what it is.
  template <class Copies>
  void written(Copies& copies) const {
    const index each = (window - 1) * width;
    copies.written(past.data, past.of(seq.batch - 1) + each);
    copies.written(before, before + seq.batch * each);
  }
};

template <class T, index Window, class G>
struct conv_input_gradient {
  using scalar = T;
  window_view<T, Window> in;
  const T* taps;
  matrix_view<const T> dy, addend;
  matrix_view<G> dx;
  template <class V>
  DISTIL_XLSTM_HD void operator()(index r, index c) const {
    const index b = r / in.seq.time, s = r % in.seq.time;
    V sum(0);
    if (addend.data) sum = math::load<V>(addend.row(r) + c);
    // Tokens that see this one: up to window - 1 later, and of its document.
    for (index j = in.window - 1, t = s; j >= 0 && t < in.seq.time && s >= in.seq.document_start(b, t);
         --j, ++t)
      sum = sum + math::load<V>(taps + j * in.width + c) * math::load<V>(dy.row(b * in.seq.time + t) + c);
    math::store<V>(dx.row(r) + c, sum);
  }
};

/// What a row adds to the gradient of one tap: dy x.
template <class T, index Window>
struct conv_tap_gradient {
  window_view<T, Window> in;
  matrix_view<const T> dy;
  index tap;
  template <class V>
  DISTIL_XLSTM_HD V operator()(index r, index c) const {
    const index b = r / in.seq.time, t = r % in.seq.time;
    return math::load<V>(dy.row(r) + c) * math::load_if<V>(tap >= in.first_tap(b, t), in.input(b, t, tap) + c);
  }
};

}  // namespace detail

/// A causal convolution of each channel for itself: y[t, c] = bias[c] + sum over taps j of weight[c, 0, j]
/// x[t - (window - 1) + j, c], but for taps that lie before t's document.
template <class T, index Window = dynamic>
struct causal_conv_arguments {
  detail::window_view<T, Window> in;  ///< x [rows, width], and `before`
  const T* weight;                    ///< [width, 1, window]
  const T* bias;                      ///< [width]
  /// @{ [rows, width], of which one may be without data: it is not asked for.
  matrix_view<T> y, activated;  ///< the latter SiLU(y)
  /// @}
  batched_state<T> past;  ///< [window - 1, width] before the call; advanced
  T* before;              ///< the past as it was, [batch, window - 1, width], written
};
/// dx = addend + the gradient by x, stored as G; dweight += and dbias += those by weight and bias.
template <class T, index Window = dynamic, class G = T>
struct causal_conv_backward_arguments {
  detail::window_view<T, Window> in;  ///< as forward had it
  const T* weight;                    ///< [width, 1, window]
  matrix_view<const T> dy;            ///< [rows, width]
  matrix_view<G> dx;                  ///< [rows, width]
  matrix_view<const T> addend;        ///< [rows, width], which may be dx; without data 0
  /// @{ [width, 1, window] and [width], added to.
  T *dweight, *dbias;
  /// @}
  /// [width], where dy is the gradient of SiLU(y), so that y is made again; else null.
  const T* bias = nullptr;
};

/// Writes what was asked for, and keeps what the next call will look back at. The default of any device.
template <class D, class T, index Window>
void causal_conv_forward(D& d, const causal_conv_arguments<T, Window>& a) {
  map(d, a.in.seq.batch, a.in.width,
      detail::conv_keep_past<T>{a.in.seq, a.in.window, a.in.width, a.in.x, a.past, a.before});
  auto taps = d.template scratch<T>(a.in.window * a.in.width);
  map(d, a.in.window, a.in.width, detail::tap_major<T>{a.in.window, a.in.width, a.weight, taps.data()});
  const matrix_view<T> y = a.y.data ? a.y : a.activated;
  map(d, a.in.seq.rows(), a.in.width, detail::conv_forward<T, Window>{a.in, taps.data(), a.bias, y});
  if (a.activated.data) transform(d, a.activated, math::silu_forward{}, y);
}
/// The gradients; the inputs before the call are constants. The default of any device.
template <class D, class T, index Window, class G>
void causal_conv_backward(D& d, const causal_conv_backward_arguments<T, Window, G>& a) {
  const index rows = a.in.seq.rows(), width = a.in.width, window = a.in.window;
  const auto memory = scratch_matrices<T>(d, rows, a.bias ? width : 0);
  auto taps = d.template scratch<T>(window * width);
  map(d, window, width, detail::tap_major<T>{window, width, a.weight, taps.data()});
  if (a.bias) {
    const matrix_view<T> y = memory.views[0];
    map(d, rows, width, detail::conv_forward<T, Window>{a.in, taps.data(), a.bias, y});
    transform(d, y, math::silu_backward{}, y, a.dy);
  }
  const matrix_view<const T> dy = a.bias ? memory.views[0] : a.dy;
  for (index j = 0; j < window; ++j)
    add_column_sums(d, rows, width, detail::conv_tap_gradient<T, Window>{a.in, dy, j}, a.dweight + j, window);
  add_column_sums(d, dy, a.dbias);
  map(d, rows, width, detail::conv_input_gradient<T, Window, G>{a.in, taps.data(), dy, a.addend, a.dx});
}

}  // namespace distil_xlstm
