#pragma once

#include <cstdint>
#include <type_traits>

#include <distil_xlstm/core/dtype.hpp>
#include <distil_xlstm/device/cuda/launch.cuh>
#include <distil_xlstm/device/cuda/vector_access.cuh>
#include <distil_xlstm/op/attention/op.hpp>

// What the kernels of attention share.
namespace distil_xlstm::device::detail::flash {

/// The lowest score so far where there is none: finite, so that differences of two such are no NaN.
inline constexpr float no_score = -1e30f;

/// A part's queries in one of the matrices: (m) gives a row's first number. Strides are 32 bits, products of
/// them 64.
template <class T>
struct query_rows {
  T* data;
  int stride, width, group;
  /// `t`: m's token.
  __device__ T* of(int m, int t) const {
    return data + static_cast<index>(t) * stride + (m - t * group) * width;
  }
  __device__ T* operator()(int m) const { return of(m, m / group); }
};
/// Its keys or values of this call.
template <class T>
struct now_rows {
  T* data;
  int stride;
  __device__ T* operator()(int s) const { return data + static_cast<index>(s) * stride; }
};
/// Its keys or values, those of the past too.
struct key_rows {
  const attention_shape& shape;
  const float *before, *now;
  int before_stride, now_stride, past;
  /// j >= past
  __device__ const float* of_now(int j) const { return now + static_cast<index>(j - past) * now_stride; }
  __device__ const float* operator()(int j) const {
    const bool old = j < past;
    return (old ? before : now) +
           static_cast<index>(old ? shape.slot(j) : j - past) * (old ? before_stride : now_stride);
  }
};

/// The keys that a query sees: low .. sinks_end - 1 and recent .. high. All four grow with the query; without a
/// window, or where it reaches back to the first key, all are recent.
struct seen_keys {
  int low, sinks_end, recent, high;
  /// Without branches, which would part the lanes.
  __device__ bool sees(int j) const {
    const auto within = [j](int from, int end) {
      return static_cast<int>(static_cast<unsigned>(j - from) < static_cast<unsigned>(end - from));
    };
    return within(recent, high + 1) | within(low, sinks_end);
  }
  /// Which of the 32 keys from j on it sees, a bit each.
  __device__ std::uint32_t bits(int j) const {
    const auto from = [&](int key) {
      return __funnelshift_lc(0u, ~0u, static_cast<unsigned>(max(key - j, 0)));
    };
    return (from(recent) & ~from(high + 1)) | (from(low) & ~from(sinks_end));
  }
};
inline constexpr seen_keys no_keys{1, 1, 1, 0};

/// One sequence and key head. Its queries are counted m = t * group + i, i the head within the group, so that
/// all heads that share a key read it together; its keys j = past + s, from the oldest one on. Matrices hold
/// floats, or bfloat16 where there is no past.
template <class S>
struct part_of {
  const attention_arguments<S>& a;
  int b, kv, group, past, rows;
  int window, sinks;  ///< window: `far` where there is none

  __device__ part_of(const attention_arguments<S>& arguments, int task) : part_of(arguments, task, 0) {
    if constexpr (std::is_same_v<S, float>) past = static_cast<int>(a.past_length(b));
  }
  /// Of a past whose length is known already, or is not yet.
  __device__ part_of(const attention_arguments<S>& arguments, int task, int past_tokens)
      : a(arguments),
        b(task / static_cast<int>(a.shape.kv_heads)),
        kv(task % static_cast<int>(a.shape.kv_heads)),
        group(static_cast<int>(a.shape.heads) / static_cast<int>(a.shape.kv_heads)),
        past(past_tokens),
        rows(static_cast<int>(a.seq.time) * group),
        window(count(a.shape.window > 0 ? a.shape.window : far)),
        sinks(count(a.shape.sinks)) {}
  __device__ int width() const { return static_cast<int>(a.shape.width); }
  __device__ int keys() const { return past + static_cast<int>(a.seq.time); }
  __device__ int token(int m) const { return m / group; }
  /// Of query m's document the keys so far are first(m) .. last(m); both grow with m.
  __device__ int first(int m) const {
    const index start = a.seq.document_start(b, token(m));
    return start < 0 ? 0 : past + static_cast<int>(start);
  }
  __device__ int last(int m) const { return past + token(m); }
  /// What it sees of them, where `low` and `high` are the two.
  __device__ seen_keys seen(int low, int high) const {
    const int recent = max(low, high + 1 - window);
    return {low, min(low + sinks, recent), recent, high};
  }
  __device__ seen_keys seen(int m) const { return seen(first(m), last(m)); }
  /// Whether query m, or one after it, may see some of the keys begin .. end - 1. `m` is not before the first of
  /// them; once false, it stays so: where m's window is past `end`, later documents begin later, too, and the sinks
  /// of m's own are all there.
  __device__ bool reaches(int m, int begin, int end) const {
    const seen_keys s = seen(m);
    return s.low < end && (s.recent < end || s.sinks_end > begin);
  }
  /// Of scores.
  __device__ float scale() const { return 1 / sqrtf(static_cast<float>(width())); }

  /// More tokens than a text has.
  static constexpr index far = index{1} << 30;
  static __device__ int count(index tokens) { return static_cast<int>(tokens < far ? tokens : far); }

  template <class T>
  __device__ auto queries(matrix_view<T> x) const {
    return query_rows<T>{x.row(b * a.seq.time) + kv * group * a.shape.width, static_cast<int>(x.stride),
                         width(), group};
  }
  template <class T>
  __device__ auto now(matrix_view<T> x) const {
    return now_rows<T>{x.row(b * a.seq.time) + kv * a.shape.width, static_cast<int>(x.stride)};
  }
  __device__ auto keys_of(matrix_view<const float> x, batched_state<const float> before) const {
    return key_rows{a.shape,
                    before.of(b) + kv * a.shape.width,
                    x.row(b * a.seq.time) + kv * a.shape.width,
                    static_cast<int>(a.shape.kv_heads * a.shape.width),
                    static_cast<int>(x.stride),
                    past};
  }
};
using part = part_of<float>;

/// The keys that some of the queries m0 .. end_row - 1 see, side by side at the places begin .. end - 1: the sinks of
/// m0's document (a later one's are not before its queries), then what is recent to m0 and all keys after it. Those
/// between are `skipped`, and lie between sinks and window of each query that sees these sinks: `part_of::seen` of
/// places is in places.
struct visited_keys {
  int begin, end, sinks_end, skipped;
  template <class S>
  __device__ visited_keys(const part_of<S>& p, int m0, int end_row) {
    const seen_keys s = p.seen(m0);
    const bool sinks = s.low < s.sinks_end;
    begin = sinks ? s.low : s.recent;
    sinks_end = s.sinks_end, skipped = sinks ? s.recent - s.sinks_end : 0;
    end = place(p.last(end_row - 1)) + 1;
  }
  __device__ int place(int key) const { return key < sinks_end ? key : key - skipped; }
  __device__ int key(int place) const { return place < sinks_end ? place : place + skipped; }
};

/// What the backward pass keeps of each query between its two kernels: p_s = exp((score_s - largest) /
/// sqrt(width)) inverse, and dy . y.
struct row_sums {
  float largest, inverse, mean, unused;
};

using detail::is_vectorised;
/// Whether every row of every head begins at 16 bytes.
template <class S>
bool is_vectorised(const attention_arguments<S>& a) {
  const auto past = [&](batched_state<const S> m) { return is_vectorised(m.data, m.stride); };
  return is_vectorised(a.q, a.shape.width) && is_vectorised(a.k) && is_vectorised(a.v) && is_vectorised(a.y) &&
         (!a.past.length.data || (past(a.past.keys) && past(a.past.values)));
}
inline bool is_vectorised(const attention_backward_arguments<float>& g) {
  return is_vectorised(g.forward) && is_vectorised(g.dy) && is_vectorised(g.dq) && is_vectorised(g.dk) &&
         is_vectorised(g.dv);
}
template <class S>
int row_tiles(const attention_arguments<S>& a, int rows) {
  return static_cast<int>(blocks_for(a.seq.time * a.shape.group(), rows));
}
template <class S>
unsigned blocks(const attention_arguments<S>& a, int tiles) {
  return static_cast<unsigned>(a.seq.batch * a.shape.kv_heads * tiles);
}

}  // namespace distil_xlstm::device::detail::flash
