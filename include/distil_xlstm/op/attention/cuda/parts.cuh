#pragma once

#include <cstdint>
#include <type_traits>

#include <distil_xlstm/core/dtype.hpp>
#include <distil_xlstm/device/cuda/launch.cuh>
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
  __device__ T* operator()(int m) const {
    const int t = m / group;
    return data + static_cast<index>(t) * stride + (m - t * group) * width;
  }
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
  const float *before, *now;
  int before_stride, now_stride, past;
  /// j >= past
  __device__ const float* of_now(int j) const { return now + static_cast<index>(j - past) * now_stride; }
  __device__ const float* operator()(int j) const {
    const bool old = j < past;
    return (old ? before : now) + static_cast<index>(old ? j : j - past) * (old ? before_stride : now_stride);
  }
};

/// One sequence and key head. Its queries are counted m = t * group + i, i the head within the group, so that
/// all heads that share a key read it together; its keys j = past + s, from the oldest one on. Matrices hold
/// floats, or bfloat16 where there is no past.
template <class S>
struct part_of {
  const attention_arguments<S>& a;
  int b, kv, past, rows;

  __device__ part_of(const attention_arguments<S>& arguments, int task)
      : a(arguments),
        b(task / static_cast<int>(a.shape.kv_heads)),
        kv(task % static_cast<int>(a.shape.kv_heads)),
        past(std::is_same_v<S, float> ? static_cast<int>(a.past_length(b)) : 0),
        rows(static_cast<int>(a.seq.time * a.shape.group())) {}
  __device__ int group() const { return static_cast<int>(a.shape.group()); }
  __device__ int width() const { return static_cast<int>(a.shape.width); }
  __device__ int keys() const { return past + static_cast<int>(a.seq.time); }
  __device__ int token(int m) const { return m / group(); }
  /// The keys that query m sees are first(m) .. last(m); both grow with m.
  __device__ int first(int m) const {
    const index start = a.seq.document_start(b, token(m));
    return start < 0 ? 0 : past + static_cast<int>(start);
  }
  __device__ int last(int m) const { return past + token(m); }
  /// Of scores.
  __device__ float scale() const { return 1 / sqrtf(static_cast<float>(width())); }

  template <class T>
  __device__ auto queries(matrix_view<T> x) const {
    return query_rows<T>{x.row(b * a.seq.time) + kv * a.shape.group() * a.shape.width,
                         static_cast<int>(x.stride), width(), group()};
  }
  template <class T>
  __device__ auto now(matrix_view<T> x) const {
    return now_rows<T>{x.row(b * a.seq.time) + kv * a.shape.width, static_cast<int>(x.stride)};
  }
  __device__ auto keys_of(matrix_view<const float> x, batched_state<const float> before) const {
    return key_rows{before.of(b) + kv * a.shape.width, x.row(b * a.seq.time) + kv * a.shape.width,
                    static_cast<int>(a.shape.kv_heads * a.shape.width), static_cast<int>(x.stride), past};
  }
};
using part = part_of<float>;

/// Four numbers of a row from column c on, zeros from column n on; in one access where `quads` allows it.
__device__ inline float4 load_four(const float* row, int c, int n, bool quads) {
  if (quads) return c < n ? *reinterpret_cast<const float4*>(row + c) : float4{0, 0, 0, 0};
  return {c < n ? row[c] : 0.f, c + 1 < n ? row[c + 1] : 0.f, c + 2 < n ? row[c + 2] : 0.f,
          c + 3 < n ? row[c + 3] : 0.f};
}
__device__ inline void store_four(float* row, int c, int n, bool quads, float4 x) {
  if (quads) {
    if (c < n) *reinterpret_cast<float4*>(row + c) = x;
    return;
  }
  if (c < n) row[c] = x.x;
  if (c + 1 < n) row[c + 1] = x.y;
  if (c + 2 < n) row[c + 2] = x.z;
  if (c + 3 < n) row[c + 3] = x.w;
}

/// What the backward pass keeps of each query between its two kernels: p_s = exp((score_s - largest) /
/// sqrt(width)) inverse, and dy . y.
struct row_sums {
  float largest, inverse, mean, unused;
};

template <class T>
bool in_quads(matrix_view<T> m) {
  return m.stride * static_cast<index>(sizeof(T)) % 16 == 0 &&
         reinterpret_cast<std::uintptr_t>(m.data) % 16 == 0;
}
template <class T>
bool in_quads(batched_state<const T> m) {
  return m.stride * static_cast<index>(sizeof(T)) % 16 == 0 &&
         reinterpret_cast<std::uintptr_t>(m.data) % 16 == 0;
}
/// Whether every row of every head begins at 16 bytes.
template <class S>
bool in_quads(const attention_arguments<S>& a) {
  return a.shape.width * static_cast<index>(sizeof(S)) % 16 == 0 && in_quads(a.q) && in_quads(a.k) &&
         in_quads(a.v) && in_quads(a.y) &&
         (!a.past.length.data || (in_quads(a.past.keys) && in_quads(a.past.values)));
}
inline bool in_quads(const attention_backward_arguments<float>& g) {
  return in_quads(g.forward) && in_quads(g.dy) && in_quads(g.dq) && in_quads(g.dk) && in_quads(g.dv);
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
