#pragma once

#include <algorithm>

#include <distil_xlstm/device/cpu/machine.hpp>
#include <distil_xlstm/op/attention/op.hpp>

namespace distil_xlstm::device {

namespace detail {

/// A few query rows against all keys that any of them sees: products on the worker's kernels, softmax in packs.
/// Row i is the query of token `time + i * step` (step 0: several heads of one token).
///
/// Columns are the keys: first those of the past (if seen), then this call's from `begin` on. A row's weights
/// outside the keys that it may see are exactly 0.
template <Precision P, class T>
struct attention_rows {
  using V = pack<T>;
  static constexpr index block = 64;
  static constexpr index few = 8;  ///< up to so many rows, values are read once, where they lie

  cpu_base::worker& worker;
  const attention_arguments<T>& a;
  index sequence, kv_head, time, step, count;
  const T* q;  ///< the first row's query
  index ldq;
  // From here on: `locate`.
  index past = 0, begin = 0, now = 0, ld = 0;

  void locate() {
    const index low = a.first(sequence, time), last = time + (count - 1) * step;
    past = low < 0 ? -low : 0;
    begin = low < 0 ? 0 : low;
    now = last - begin + 1;
    ld = (past + now + V::width - 1) / V::width * V::width;
  }
  index scratch() const { return count * ld; }

  gemm_operand plain(const T* p, index stride) const { return {p, stride, dtype_of<T>, false}; }
  gemm_operand transposed(const T* p, index stride) const { return {p, stride, dtype_of<T>, true}; }
  const T* past_of(batched_state<const T> m) const { return m.of(sequence) + kv_head * a.shape.width; }
  const T* now_of(matrix_view<const T> m) const {
    return m.row(sequence * a.seq.time + begin) + kv_head * a.shape.width;
  }
  index past_stride() const { return a.shape.kv_heads * a.shape.width; }

  /// out[count, keys] = x mᵀ, m the keys or the values.
  void against(const T* x, index ldx, matrix_view<const T> m, batched_state<const T> before, T* out) const {
    const index n = a.shape.width;
    if (past > 0)
      gemm_on<P, T>(worker, count, past, n, plain(x, ldx), transposed(past_of(before), past_stride()), T(0),
                    out, ld);
    gemm_on<P, T>(worker, count, now, n, plain(x, ldx), transposed(now_of(m), m.stride), T(0), out + past, ld);
  }
  /// out[count, width] = w m, w [count, keys].
  void combine(const T* w, matrix_view<const T> m, batched_state<const T> before, T* out, index ldout) const {
    const index n = a.shape.width;
    if (count <= few) {
      for (index i = 0; i < count; i += 4)
        combine_few(std::min<index>(4, count - i), w + i * ld, m, before, out + i * ldout, ldout);
      return;
    }
    if (past > 0)
      gemm_on<P, T>(worker, count, n, past, plain(w, ld), plain(past_of(before), past_stride()), T(0), out,
                    ldout);
    gemm_on<P, T>(worker, count, n, now, plain(w + past, ld), plain(now_of(m), m.stride), T(past > 0), out,
                  ldout);
  }

  /// w = exp(score / sqrt(width) - max) in place; inverse[i] = 1 / its sum.
  void softmax(T* w, T* inverse) const {
    using std::exp;
    const T scale = a.scale();
    for (index i = 0; i < count; ++i, w += ld) {
      const index t = time + i * step, first = a.first(sequence, t);
      const index low = first < 0 ? 0 : past + first - begin, high = past + t - begin + 1;
      std::fill(w, w + low, T(0));
      std::fill(w + high, w + past + now, T(0));
      index c = low;
      T largest = w[low];
      if (high - low >= V::width) {
        V wide = V::load(w + c);
        for (c += V::width; c + V::width <= high; c += V::width) wide = max(wide, V::load(w + c));
        largest = wide.v.maxCoeff();
      }
      for (; c < high; ++c) largest = std::max(largest, w[c]);
      const T shift = scale * largest;
      V wide(0);
      T sum = 0;
      for (c = low; c + V::width <= high; c += V::width) {
        const V e = exp(V::load(w + c) * V(scale) - V(shift));
        e.store(w + c);
        wide += e;
      }
      for (; c < high; ++c) sum += w[c] = exp(w[c] * scale - shift);
      inverse[i] = T(1) / (sum + wide.v.sum());
    }
  }

  void forward(T* y, index ldy) {
    locate();
    auto memory = worker.template scratch<T>(scratch() + count);
    T *w = memory.data(), *inverse = w + scratch();
    against(q, ldq, a.k, a.past.keys, w);
    softmax(w, inverse);
    combine(w, a.v, a.past.values, y, ldy);
    for (index i = 0; i < count; ++i)
      for (index c = 0; c < a.shape.width; ++c) y[i * ldy + c] *= inverse[i];
  }

  /// Writes dq, adds to dk and dv (of token 0 of the sequence on).
  void backward(const T* y, index ldy, const T* dy, index lddy, T* dq, index lddq, T* dk, index lddk, T* dv,
                index lddv) {
    locate();
    const index n = a.shape.width;
    auto memory = worker.template scratch<T>(2 * scratch() + count);
    T *p = memory.data(), *ds = p + scratch(), *inverse = ds + scratch();
    against(q, ldq, a.k, a.past.keys, p);
    softmax(p, inverse);
    against(dy, lddy, a.v, a.past.values, ds);
    for (index i = 0; i < count; ++i) {
      T mean = 0;
      for (index c = 0; c < n; ++c) mean += dy[i * lddy + c] * y[i * ldy + c];
      T *pi = p + i * ld, *di = ds + i * ld;
      for (index c = 0; c < past + now; ++c) {
        pi[c] *= inverse[i];
        di[c] = a.scale() * pi[c] * (di[c] - mean);
      }
    }
    combine(ds, a.k, a.past.keys, dq, lddq);
    gemm_on<P, T>(worker, now, n, count, transposed(ds + past, ld), plain(q, ldq), T(1), dk + begin * lddk,
                  lddk);
    gemm_on<P, T>(worker, now, n, count, transposed(p + past, ld), plain(dy, lddy), T(1), dv + begin * lddv,
                  lddv);
  }

 private:
  /// One to four rows: each column of packs walks down the keys once.
  void combine_few(index rows, const T* w, matrix_view<const T> m, batched_state<const T> before, T* out,
                   index ldout) const {
    switch (rows) {
      case 1: return combine_some<1>(w, m, before, out, ldout);
      case 2: return combine_some<2>(w, m, before, out, ldout);
      case 3: return combine_some<3>(w, m, before, out, ldout);
      default: return combine_some<4>(w, m, before, out, ldout);
    }
  }
  template <int Rows>
  void combine_some(const T* w, matrix_view<const T> m, batched_state<const T> before, T* out,
                    index ldout) const {
    const index n = a.shape.width;
    index c = 0;
    for (; c + V::width <= n; c += V::width) combine_columns<Rows, V>(c, w, m, before, out, ldout);
    for (; c < n; ++c) combine_columns<Rows, T>(c, w, m, before, out, ldout);
  }
  template <int Rows, class W>
  void combine_columns(index c, const T* w, matrix_view<const T> m, batched_state<const T> before, T* out,
                       index ldout) const {
    W sum[Rows];
    for (auto& s : sum) s = W(0);
    const auto walk = [&](const T* p, index stride, index first, index keys) {
      for (index s = 0; s < keys; ++s, p += stride) {
        const W x = math::load<W>(p);
        for (int i = 0; i < Rows; ++i) sum[i] = sum[i] + W(w[i * ld + first + s]) * x;
      }
    };
    if (past > 0) walk(past_of(before) + c, past_stride(), 0, past);
    walk(now_of(m) + c, m.stride, past, now);
    for (int i = 0; i < Rows; ++i) math::store<W>(out + i * ldout + c, sum[i]);
  }
};

}  // namespace detail

/// One sequence, head and block of queries a task; for single tokens one sequence and key head, so that a
/// cached key is read once for all the queries that share it. At most a block's scores are stored.
template <Precision P, class T>
void attention_forward(basic_cpu<P>& device, const attention_arguments<T>& a) {
  const index n = a.shape.width, group = a.shape.group();
  if (a.seq.time == 1) {
    device.tasks(a.seq.batch * a.shape.kv_heads, [&](index task, cpu_base::worker& w) {
      const index b = task / a.shape.kv_heads, kv = task % a.shape.kv_heads, column = kv * group * n;
      detail::attention_rows<P, T>{w, a, b, kv, 0, 0, group, a.q.row(b) + column, n}.forward(
          a.y.row(b) + column, n);
    });
    return;
  }
  constexpr index block = detail::attention_rows<P, T>::block;
  const index blocks = (a.seq.time + block - 1) / block;
  device.tasks(a.seq.batch * a.shape.heads * blocks, [&](index task, cpu_base::worker& w) {
    // Late blocks see the most keys: they go first.
    const index part = blocks - 1 - task / (a.seq.batch * a.shape.heads),
                rest = task % (a.seq.batch * a.shape.heads);
    const index b = rest / a.shape.heads, head = rest % a.shape.heads, t = part * block;
    const index row = b * a.seq.time + t;
    detail::attention_rows<P, T>{
        w, a, b, head / group, t, 1, std::min(block, a.seq.time - t), a.q.row(row) + head * n, a.q.stride}
        .forward(a.y.row(row) + head * n, a.y.stride);
  });
}

/// One sequence and key head a task, block of queries after block.
template <Precision P, class T>
void attention_backward(basic_cpu<P>& device, const attention_backward_arguments<T>& g) {
  const auto& a = g.forward;
  const index n = a.shape.width, group = a.shape.group();
  constexpr index block = detail::attention_rows<P, T>::block;
  device.tasks(a.seq.batch * a.shape.kv_heads, [&](index task, cpu_base::worker& w) {
    const index b = task / a.shape.kv_heads, kv = task % a.shape.kv_heads, origin = b * a.seq.time;
    T *dk = g.dk.row(origin) + kv * n, *dv = g.dv.row(origin) + kv * n;
    for (index t = 0; t < a.seq.time; ++t) {
      std::fill_n(dk + t * g.dk.stride, n, T(0));
      std::fill_n(dv + t * g.dv.stride, n, T(0));
    }
    for (index head = kv * group; head < (kv + 1) * group; ++head)
      for (index t = 0; t < a.seq.time; t += block) {
        const index row = origin + t, column = head * n;
        detail::attention_rows<P, T>{
            w, a, b, kv, t, 1, std::min(block, a.seq.time - t), a.q.row(row) + column, a.q.stride}
            .backward(a.y.row(row) + column, a.y.stride, g.dy.row(row) + column, g.dy.stride,
                      g.dq.row(row) + column, g.dq.stride, dk, g.dk.stride, dv, g.dv.stride);
      }
  });
}

}  // namespace distil_xlstm::device
