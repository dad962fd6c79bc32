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
  using scalar = T;
  index window, width;
  const T* weight;
  T* taps;
  template <class V>
  DISTIL_XLSTM_HD void operator()(index j, index c) const {
    for (index i = c; i < c + math::width_of<V>; ++i) taps[j * width + i] = weight[i * window + j];
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

/// What a row adds to the gradient of one tap: dy x.
template <class T>
struct conv_tap_gradient {
  using scalar = T;
  window_view<T> in;
  matrix_view<const T> dy;
  index tap;
  template <class V>
  DISTIL_XLSTM_HD V operator()(index r, index c) const {
    const index b = r / in.seq.time, t = r % in.seq.time;
    return math::load<V>(dy.row(r) + c) * math::load_if<V>(tap >= in.first_tap(b, t), in.input(b, t, tap) + c);
  }
};

/// Keeps what the next call will look back at: row b is sequence b.
template <class T>
struct conv_keep_past {
  using scalar = T;
  sequence_view seq;
  index window, width;
  matrix_view<const T> x;
  per_sequence<T> past;
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
    map(d, window, width, detail::tap_major<T>{window, width, p.weight, taps.data()});
    map(d, seq.batch, width, detail::conv_keep_past<T>{seq, window, width, x, s.past, k.before});
    map(d, seq.rows(), width, detail::conv_forward<T>{input<T>(seq, k, x), taps.data(), p.bias, y});
  }
  /// Overwrites dx, or adds to it where `accumulate`.
  template <class D, class P, class G, class K, class T>
  void backward(D& d, sequence_view seq, const P& p, const G& g, const K& k, matrix_view<const T> x,
                matrix_view<const T> dy, matrix_view<T> dx, bool accumulate = false) const {
    auto taps = d.template scratch<T>(window * width);
    map(d, window, width, detail::tap_major<T>{window, width, p.weight, taps.data()});
    for (index j = 0; j < window; ++j)
      add_column_sums(d, seq.rows(), width, detail::conv_tap_gradient<T>{input<T>(seq, k, x), dy, j},
                      g.weight + j, window);
    add_column_sums(d, dy, g.bias);
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
