#pragma once

#include <distil_xlstm/math/numeric.hpp>

namespace distil_xlstm::math {

/// Logits below this count as this, so that a logit of minus infinity has probability 0 and gives no NaN.
inline constexpr double logit_floor = -0x1p30;  // a number of bfloat16, too

/// x, or `low` where x is below it. NaN stays NaN.
template <class V>
DISTIL_XLSTM_HD V not_below(V x, V low) {
  if constexpr (requires { at_least(x, low); })
    return at_least(x, low);
  else
    return select_positive(low - x, low, x);
}
/// x, or the floor where x is below it. NaN stays NaN.
template <class V>
DISTIL_XLSTM_HD V clamp_min(V x) {
  return not_below(x, V(static_cast<scalar_of<V>>(logit_floor)));
}

/// A numeric type that finds exp(x - y) by less than a difference and an exponential.
template <class V>
concept FusesDifferences = requires(V x, V y) {
  exp_difference(x, y);
};
/// exp(x - y)
template <class V>
DISTIL_XLSTM_HD V exp_of_difference(V x, V y) {
  using std::exp;
  if constexpr (FusesDifferences<V>)
    return exp_difference(x, y);
  else
    return exp(x - y);
}

/// log(sum exp(x)), streamed: max = the largest x so far, sum = sum exp(x - max) (the online softmax, Milakov and
/// Gimelshein 2018, arXiv 1805.02867). A device may sum against another reference than the largest x, one that none is
/// far above: what is promised is value() and probability().
/// One lane each in a pack; lanes and parts are joined with `join`.
template <class V>
struct log_sum_exp {
  /// @{ The largest x so far, or that reference, and sum exp(x - max).
  V max, sum;
  /// @}

  /// Of no numbers.
  static DISTIL_XLSTM_HD log_sum_exp empty() { return {V(static_cast<scalar_of<V>>(logit_floor)), V(0)}; }
  /// log(sum exp(x))
  DISTIL_XLSTM_HD V value() const {
    using std::log;
    return max + log(sum);
  }
  /// exp(x) / sum exp: the softmax of one of the numbers, as `clamp_min` leaves it, without a logarithm.
  template <class W>
  DISTIL_XLSTM_HD W probability(W x) const {
    return exp_of_difference(x, W(max)) * W(V(1) / sum);
  }
};

/// What a new number does to the old sums, and its own weight: both exp(. - new max).
template <class V>
struct rescaling {
  /// @{ Old sums are multiplied by `keep`, the new number counts `weight`.
  V keep, weight;
  /// @}
};

/// Takes x (clamp_min) into `a`, with one exponential.
template <class V>
DISTIL_XLSTM_HD rescaling<V> push(log_sum_exp<V>& a, V x) {
  using std::abs;
  using std::exp;
  const V d = x - a.max;
  const V e = exp(-abs(d));
  const rescaling<V> r{select_positive(d, e, V(1)), select_positive(d, V(1), e)};
  a.max = select_positive(d, x, a.max);
  a.sum = a.sum * r.keep + r.weight;
  return r;
}

/// Takes N numbers into `a`, with N + 1 exponentials: x[i] <- the weight of number i; returns what old sums are
/// multiplied by.
template <FusesDifferences V, int N>
DISTIL_XLSTM_HD V push_weighing(log_sum_exp<V>& a, V (&x)[N]) {
  using std::exp;
  V max = a.max;
  for (int i = 0; i < N; ++i) max = not_below(x[i], max);
  const V keep = exp(a.max - max);  // 1 where they are equal, be they at the floor
  a.max = max, a.sum = a.sum * keep;
  for (int i = 0; i < N; ++i) {
    x[i] = exp_difference(x[i], max);
    a.sum = a.sum + x[i];
  }
  return keep;
}
/// The same without an answer.
template <FusesDifferences V, int N>
DISTIL_XLSTM_HD void push(log_sum_exp<V>& a, V (&x)[N]) {
  push_weighing(a, x);
}

/// a <- a and b; the factors that bring sums of a and of b to the new max.
template <class S>
DISTIL_XLSTM_HD rescaling<S> join(log_sum_exp<S>& a, const log_sum_exp<S>& b) {
  using std::exp;
  const S m = b.max > a.max ? b.max : a.max;
  const rescaling<S> r{exp(a.max - m), exp(b.max - m)};
  a.max = m;
  a.sum = a.sum * r.keep + b.sum * r.weight;
  return r;
}

/// The mean of y under softmax(x), streamed beside the log-sum-exp of x.
template <class V>
struct softmax_mean {
  log_sum_exp<V> x;  ///< of the x so far
  V dot;             ///< sum exp(x - max) y

  /// Of no numbers.
  static DISTIL_XLSTM_HD softmax_mean empty() { return {log_sum_exp<V>::empty(), V(0)}; }
  /// sum exp(x) y / sum exp(x)
  DISTIL_XLSTM_HD V mean() const { return dot / x.sum; }
};

/// Takes x (clamp_min) and its y into `a`.
template <class V>
DISTIL_XLSTM_HD void push(softmax_mean<V>& a, V x, V y) {
  const rescaling<V> r = push(a.x, x);
  a.dot = a.dot * r.keep + r.weight * y;
}
/// Takes N of them into `a`; x[i] <- the weight of number i.
template <FusesDifferences V, int N>
DISTIL_XLSTM_HD void push(softmax_mean<V>& a, V (&x)[N], const V (&y)[N]) {
  a.dot = a.dot * push_weighing(a.x, x);
  for (int i = 0; i < N; ++i) a.dot = a.dot + x[i] * y[i];
}
/// a <- a and b
template <class S>
DISTIL_XLSTM_HD void join(softmax_mean<S>& a, const softmax_mean<S>& b) {
  const rescaling<S> r = join(a.x, b.x);
  a.dot = a.dot * r.keep + b.dot * r.weight;
}

}  // namespace distil_xlstm::math
