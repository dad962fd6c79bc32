#pragma once

#include <cmath>

#include <distil_xlstm/core/sequence.hpp>
#include <distil_xlstm/core/view.hpp>
#include <distil_xlstm/math/log_sum_exp.hpp>

namespace distil_xlstm {

/// Sizes of grouped-query attention: `heads` queries a token, each `heads / kv_heads` of them share a key and a
/// value. With a window, a token sees the last `window` tokens of its document, itself among them, and the
/// document's first `sinks` (Xiao et al. 2023, arXiv 2309.17453).
struct attention_shape {
  /// @{ Query heads, heads of keys and values, and numbers of one head.
  index heads = 1, kv_heads = 1, width = 0;
  /// @}
  /// @{ Tokens; window 0: all of the document.
  index window = 0, sinks = 0;
  /// @}
  /// Query heads that share a key and a value.
  DISTIL_XLSTM_HD constexpr index group() const { return heads / kv_heads; }
  /// Where the memory of the past has the token at this place of its document: a token a row, or with a window
  /// of the sinks first, then a ring of the last `window` tokens.
  template <class Int>
  DISTIL_XLSTM_HD constexpr Int slot(Int position) const {
    if (window == 0 || position < sinks + window) return position;
    const Int from = static_cast<Int>(sinks);
    return from + (position - from) % static_cast<Int>(window);
  }
};

/// Keys and values of earlier calls. `length` null: there are none.
template <class T>
struct attention_past {
  /// @{ [capacity, kv_heads * width], in the rows that `slot` says.
  batched_state<const T> keys, values;
  /// @}
  batched_state<const T> length;  ///< [1]: tokens of the document so far
};

/// The keys that a token sees, by position: `first` .. `sinks_end` - 1, then `recent` .. the token itself.
///
///     for (index s = seen.begin(); s <= t; s = seen.next(s))
struct attention_span {
  /// @{ Positions in the call; those of the past are negative.
  index first, sinks_end, recent;
  /// @}
  /// The first key that is seen.
  DISTIL_XLSTM_HD constexpr index begin() const { return first < sinks_end ? first : recent; }
  /// The key that is seen after s.
  DISTIL_XLSTM_HD constexpr index next(index s) const { return s + 1 == sinks_end ? recent : s + 1; }
};

/// y_t = sum_s p_ts v_s, p_t = softmax over s of q_t.k_s / sqrt(width), where s runs from the first token of
/// t's document, in the past too if it began there, to t; with a window over t - window < s <= t and the
/// document's first `sinks`.
template <class T>
struct attention_arguments {
  sequence_view seq;      ///< of the call
  attention_shape shape;  ///< sizes
  /// @{ [rows, heads * width], and [rows, kv_heads * width] twice.
  matrix_view<const T> q, k, v;
  /// @}
  attention_past<T> past;  ///< of documents that began before the call
  matrix_view<T> y;        ///< [rows, heads * width], written

  /// Tokens of sequence b's document before the call.
  DISTIL_XLSTM_HD index past_length(index b) const {
    return past.length.data ? static_cast<index>(*past.length.of(b)) : 0;
  }
  /// The first position of token t's document; the past's are -length .. -1.
  DISTIL_XLSTM_HD index first(index b, index t) const {
    const index start = seq.document_start(b, t);
    return start < 0 ? -past_length(b) : start;
  }
  /// What token t sees. A window that reaches back to the first token is no window.
  DISTIL_XLSTM_HD attention_span span(index b, index t) const {
    const index from = first(b, t), start = t - shape.window + 1;
    if (shape.window == 0 || start <= from) return {from, from, from};
    return {from, from + shape.sinks < start ? from + shape.sinks : start, start};
  }
  /// @{ The `width` numbers of key head kv_head at position s of sequence b, in the call (s >= 0) or in the past.
  DISTIL_XLSTM_HD const T* row_of(matrix_view<const T> now, batched_state<const T> before, index b,
                                  index kv_head, index s) const {
    const index column = kv_head * shape.width;
    if (s >= 0) return now.row(b * seq.time + s) + column;
    return before.of(b) + shape.slot(past_length(b) + s) * shape.kv_heads * shape.width + column;
  }
  DISTIL_XLSTM_HD const T* key(index b, index kv_head, index s) const {
    return row_of(k, past.keys, b, kv_head, s);
  }
  DISTIL_XLSTM_HD const T* value(index b, index kv_head, index s) const {
    return row_of(v, past.values, b, kv_head, s);
  }
  /// @}
  /// 1 / sqrt(width)
  DISTIL_XLSTM_HD T scale() const {
    using std::sqrt;
    return T(1) / sqrt(static_cast<T>(shape.width));
  }
};

/// The gradients of q, k, v; the past is a constant.
template <class T>
struct attention_backward_arguments {
  attention_arguments<T> forward;  ///< as forward had them, y as it gave it
  matrix_view<const T> dy;         ///< [rows, heads * width]
  /// @{ Overwritten; shapes as those of q, k, v.
  matrix_view<T> dq, dk, dv;
  /// @}
};

namespace detail {

template <class T>
DISTIL_XLSTM_HD T dot_product(const T* a, const T* b, index n) {
  T sum = 0;
  for (index c = 0; c < n; ++c) sum += a[c] * b[c];
  return sum;
}

/// One token and head a task, by the online softmax (Milakov and Gimelshein 2018, arXiv 1805.02867).
template <class T>
struct attention_forward_task {
  attention_arguments<T> a;
  DISTIL_XLSTM_HD void operator()(index task) const {
    const index row = task / a.shape.heads, head = task % a.shape.heads, n = a.shape.width;
    const index b = row / a.seq.time, t = row % a.seq.time, kv = head / a.shape.group();
    const T* q = a.q.row(row) + head * n;
    T* y = a.y.row(row) + head * n;
    for (index c = 0; c < n; ++c) y[c] = 0;
    auto total = math::log_sum_exp<T>::empty();
    const attention_span seen = a.span(b, t);
    for (index s = seen.begin(); s <= t; s = seen.next(s)) {
      const auto r = math::push(total, a.scale() * dot_product(q, a.key(b, kv, s), n));
      const T* v = a.value(b, kv, s);
      for (index c = 0; c < n; ++c) y[c] = y[c] * r.keep + r.weight * v[c];
    }
    for (index c = 0; c < n; ++c) y[c] /= total.sum;
  }
};

/// One sequence and key head a task: with p_t recomputed, g_ts = dy_t.v_s and d_t = dy_t.y_t (FlashAttention's
/// backward, Dao et al. 2022, arXiv 2205.14135),
///
///   ds_ts = p_ts (g_ts - d_t) / sqrt(width)
///   dq_t  = sum_s ds_ts k_s      dk_s = sum_t ds_ts q_t      dv_s = sum_t p_ts dy_t
template <class T>
struct attention_backward_task {
  attention_backward_arguments<T> g;
  DISTIL_XLSTM_HD void operator()(index task) const {
    const auto& a = g.forward;
    const index b = task / a.shape.kv_heads, kv = task % a.shape.kv_heads, n = a.shape.width;
    const index origin = b * a.seq.time;
    for (index t = 0; t < a.seq.time; ++t)
      for (index c = 0; c < n; ++c) g.dk.row(origin + t)[kv * n + c] = g.dv.row(origin + t)[kv * n + c] = 0;
    for (index head = kv * a.shape.group(); head < (kv + 1) * a.shape.group(); ++head)
      for (index t = 0; t < a.seq.time; ++t) {
        const T *q = a.q.row(origin + t) + head * n, *dy = g.dy.row(origin + t) + head * n;
        T* dq = g.dq.row(origin + t) + head * n;
        const attention_span seen = a.span(b, t);
        auto total = math::log_sum_exp<T>::empty();
        for (index s = seen.begin(); s <= t; s = seen.next(s))
          math::push(total, a.scale() * dot_product(q, a.key(b, kv, s), n));
        const T mean = dot_product(dy, static_cast<const T*>(a.y.row(origin + t) + head * n), n);
        for (index c = 0; c < n; ++c) dq[c] = 0;
        for (index s = seen.begin(); s <= t; s = seen.next(s)) {
          const T* k = a.key(b, kv, s);
          const T p = total.probability(math::clamp_min(a.scale() * dot_product(q, k, n)));
          const T ds = a.scale() * p * (dot_product(dy, a.value(b, kv, s), n) - mean);
          for (index c = 0; c < n; ++c) dq[c] += ds * k[c];
          if (s < 0) continue;
          T *dk = g.dk.row(origin + s) + kv * n, *dv = g.dv.row(origin + s) + kv * n;
          for (index c = 0; c < n; ++c) dk[c] += ds * q[c], dv[c] += p * dy[c];
        }
      }
  }
};

}  // namespace detail

/// Writes y. The default of any device, and the oracle of the better ones.
template <class D, class T>
void attention_forward(D& d, const attention_arguments<T>& a) {
  parallel_for(d, a.seq.rows() * a.shape.heads, detail::attention_forward_task<T>{a});
}
/// Writes dq, dk and dv; probabilities are recomputed. The default of any device.
template <class D, class T>
void attention_backward(D& d, const attention_backward_arguments<T>& g) {
  parallel_for(d, g.forward.seq.batch * g.forward.shape.kv_heads, detail::attention_backward_task<T>{g});
}

}  // namespace distil_xlstm
