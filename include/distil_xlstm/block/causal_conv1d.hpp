#pragma once

#include <distil_xlstm/block/linear.hpp>

namespace distil_xlstm {

namespace detail {

/// The input of a causal window: rows of this call, and before them the last window - 1 inputs of earlier
/// calls.
template <class T>
struct window_view {
  sequence_view seq;
  index window, width;
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
  index window;
  const T* weight;
  T* taps;
  index width;
  DISTIL_XLSTM_HD void operator()(index j) const {
    for (index c = 0; c < width; ++c) taps[j * width + c] = weight[c * window + j];
  }
};

template <class T>
struct conv_forward {
  using scalar = T;
  window_view<T> in;
  const T* taps;
  const T* bias;
  matrix_view<T> y;
  template <class V>
  DISTIL_XLSTM_HD void operator()(index r, index c) const {
    const index b = r / in.seq.time, t = r % in.seq.time;
    V sum = math::load<V>(bias + c);
    for (index j = in.first_tap(b, t); j < in.window; ++j)
      sum = sum + math::load<V>(taps + j * in.width + c) * math::load<V>(in.input(b, t, j) + c);
    math::store<V>(y.row(r) + c, sum);
  }
};

template <class T>
struct conv_input_gradient {
  using scalar = T;
  window_view<T> in;
  const T* taps;
  matrix_view<const T> dy;
  matrix_view<T> dx;
  bool accumulate;
  template <class V>
  DISTIL_XLSTM_HD void operator()(index r, index c) const {
    const index b = r / in.seq.time, s = r % in.seq.time;
    V sum = math::load_if<V>(accumulate, dx.row(r) + c);
    // Tokens that see this one: up to window - 1 later, and of its document.
    for (index j = in.window - 1, t = s; j >= 0 && t < in.seq.time && s >= in.seq.document_start(b, t);
         --j, ++t)
      sum = sum + math::load<V>(taps + j * in.width + c) * math::load<V>(dy.row(b * in.seq.time + t) + c);
    math::store<V>(dx.row(r) + c, sum);
  }
};

/// dtaps[c] = sum over rows of dy x, for one tap.
template <class T>
struct conv_tap_gradient {
  using scalar = T;
  window_view<T> in;
  matrix_view<const T> dy;
  index tap;
  T* dweight;  ///< [width, 1, window]
  template <class V>
  struct acc {
    V sum;
  };
  template <class V>
  DISTIL_XLSTM_HD acc<V> init() const {
    return {V(0)};
  }
  template <class V>
  DISTIL_XLSTM_HD void visit(acc<V>& a, index r, index c) const {
    const index b = r / in.seq.time, t = r % in.seq.time;
    if (tap >= in.first_tap(b, t))
      a.sum = a.sum + math::load<V>(dy.row(r) + c) * math::load<V>(in.input(b, t, tap) + c);
  }
  template <class V>
  DISTIL_XLSTM_HD void finish(index c, const acc<V>& a) const {
    constexpr index lanes = math::width_of<V>;
    T sums[lanes];
    math::store<V>(sums, a.sum);
    for (index l = 0; l < lanes; ++l) dweight[(c + l) * in.window + tap] += sums[l];
  }
};

/// Keeps what the next call will look back at.
template <class T>
struct conv_keep_past {
  sequence_view seq;
  index window, width;
  matrix_view<const T> x;
  per_sequence<T> past;
  T* before;  ///< tape: the past as it was, [batch, window - 1, width]
  DISTIL_XLSTM_HD void operator()(index b) const {
    T* now = past.of(b);
    T* old = before + b * (window - 1) * width;
    for (index i = 0; i < (window - 1) * width; ++i) old[i] = now[i];
    const index last = seq.document_start(b, seq.time - 1);
    for (index i = 0; i < window - 1; ++i) {
      const index t = seq.time - (window - 1) + i;
      const T* from = t >= 0 && t >= last ? x.row(b * seq.time + t)
                      : t < 0 && last < 0 ? old + (t + window - 1) * width
                                          : nullptr;  // another document's
      for (index c = 0; c < width; ++c) now[i * width + c] = from ? from[c] : T(0);
    }
  }
};

}  // namespace detail

template <class Pointer>
struct conv_params {
  Pointer weight, bias;
};
template <class T>
struct conv_state {
  per_sequence<T> past;  ///< [window - 1, width], oldest first
};
template <class T>
struct conv_tape {
  T* before;
};

/// Depthwise causal convolution, torch's cross-correlation with bias:
/// y[t, c] = b[c] + sum_j w[c, 0, j] x[t - (K - 1) + j, c]; the last tap meets the present input.
/// Windows of 2 and more; the reference's 0 (none) is the caller's, 1 is refused as the reference cannot run
/// it.
struct causal_conv1d {
  index width = 0, window = 4;

  constexpr index width_in() const { return width; }
  constexpr index width_out() const { return width; }

  template <class L>
  auto params(L& l) const {
    require(window >= 2, "causal_conv1d: a window of ", window, " is not supported (2 and more are)");
    const double bound = 1.0 / std::sqrt(static_cast<double>(window));
    return l.scope("conv", [&] {
      conv_params<typename L::pointer> p;
      p.weight = l.tensor("weight", {width, 1, window}, initial::uniform(bound));
      p.bias = l.tensor("bias", {width}, initial::uniform(bound));
      return p;
    });
  }
  template <class L>
  auto state(L& l) const {
    return conv_state<typename L::scalar>{l.state("past", {window - 1, width})};
  }
  template <class L>
  auto tape(L& l, sequence_view seq) const {
    return conv_tape<typename L::scalar>{l.tensor("before", {seq.batch, window - 1, width})};
  }

  template <class D, class P, class S, class K, class T>
  void forward(D& d, sequence_view seq, const P& p, const S& s, const K& k, matrix_view<const T> x,
               matrix_view<T> y) const {
    auto taps = d.template scratch<T>(window * width);
    scan(d, window, detail::tap_major<T>{window, p.weight, taps.data(), width});
    scan(d, seq.batch, detail::conv_keep_past<T>{seq, window, width, x, s.past, k.before});
    map(d, seq.rows(), width, detail::conv_forward<T>{input<T>(seq, k, x), taps.data(), p.bias, y});
  }
  /// Overwrites dx, or adds to it where `accumulate`.
  template <class D, class P, class G, class K, class T>
  void backward(D& d, sequence_view seq, const P& p, const G& g, const K& k, matrix_view<const T> x,
                matrix_view<const T> dy, matrix_view<T> dx, bool accumulate = false) const {
    auto taps = d.template scratch<T>(window * width);
    scan(d, window, detail::tap_major<T>{window, p.weight, taps.data(), width});
    for (index j = 0; j < window; ++j)
      fold_columns(d, seq.rows(), width, detail::conv_tap_gradient<T>{input<T>(seq, k, x), dy, j, g.weight});
    fold_columns(d, seq.rows(), width, detail::add_column_sums<T>{dy, g.bias});
    map(d, seq.rows(), width,
        detail::conv_input_gradient<T>{input<T>(seq, k, x), taps.data(), dy, dx, accumulate});
  }

 private:
  template <class T, class K>
  detail::window_view<T> input(sequence_view seq, const K& k, matrix_view<const T> x) const {
    return {seq, window, width, x, k.before};
  }
};

}  // namespace distil_xlstm
