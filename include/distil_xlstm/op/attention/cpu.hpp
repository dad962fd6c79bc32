#pragma once

#include <algorithm>

#include <distil_xlstm/device/cpu/machine.hpp>
#include <distil_xlstm/op/attention/op.hpp>
#include <distil_xlstm/op/attention/reach.hpp>

namespace distil_xlstm::device {

namespace detail {

/// A few query rows against all keys that any of them sees: products on the worker's kernels, softmax in packs.
/// Row i is the query of token `time + i * step` (step 0: several heads of one token).
///
/// Columns are the keys, in the order of their positions: runs of rows that lie one after another, of the past
/// (where a window's ring ends, it begins anew) and of this call. A row's weights outside the keys that it may see
/// are exactly 0.
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

  /// Positions `first` .. `first` + `count` - 1: rows of the past from `slot` on, or of this call.
  struct run {
    index first, count, slot, column;
  };
  // From here on: `locate`.
  run runs[6] = {};  ///< of sinks and window: two in the past, one in this call
  index number = 0, keys = 0, ld = 0;

  void locate() {
    const attention_span seen = a.span(sequence, time);
    const index last = time + (count - 1) * step;
    add(seen.first, seen.sinks_end), add(seen.recent, last + 1);
    ld = (keys + V::width - 1) / V::width * V::width;
  }
  index scratch() const { return count * ld; }

  gemm_operand plain(const T* p, index stride) const { return {p, stride, dtype_of<T>, false}; }
  gemm_operand transposed(const T* p, index stride) const { return {p, stride, dtype_of<T>, true}; }
  const T* rows_of(const run& r, matrix_view<const T> m, batched_state<const T> before) const {
    const T* p =
        r.first < 0 ? before.of(sequence) + r.slot * past_stride() : m.row(sequence * a.seq.time + r.first);
    return p + kv_head * a.shape.width;
  }
  index stride_of(const run& r, matrix_view<const T> m) const { return r.first < 0 ? past_stride() : m.stride; }
  index past_stride() const { return a.shape.kv_heads * a.shape.width; }

  /// out[count, keys] = x mᵀ, m the keys or the values.
  void against(const T* x, index ldx, matrix_view<const T> m, batched_state<const T> before, T* out) const {
    for (index i = 0; i < number; ++i)
      gemm_on<P, T>(worker, count, runs[i].count, a.shape.width, plain(x, ldx),
                    transposed(rows_of(runs[i], m, before), stride_of(runs[i], m)), T(0), out + runs[i].column,
                    ld);
  }
  /// out[count, width] = w m, w [count, keys].
  void combine(const T* w, matrix_view<const T> m, batched_state<const T> before, T* out, index ldout) const {
    if (count <= few) {
      for (index i = 0; i < count; i += 4)
        combine_few(std::min<index>(4, count - i), w + i * ld, m, before, out + i * ldout, ldout);
      return;
    }
    for (index i = 0; i < number; ++i)
      gemm_on<P, T>(worker, count, a.shape.width, runs[i].count, plain(w + runs[i].column, ld),
                    plain(rows_of(runs[i], m, before), stride_of(runs[i], m)), T(i > 0), out, ldout);
  }

  /// w = exp(score / sqrt(width) - max) in place; inverse[i] = 1 / its sum.
  void softmax(T* w, T* inverse) const {
    for (index i = 0; i < count; ++i, w += ld) {
      const index t = time + i * step;
      const attention_span seen = a.span(sequence, t);
      const index sinks = column_of(seen.first), sinks_end = column_of(seen.sinks_end),
                  low = column_of(seen.recent), high = column_of(t + 1);
      std::fill(w, w + sinks, T(0));
      std::fill(w + sinks_end, w + low, T(0));
      std::fill(w + high, w + keys, T(0));
      T largest = largest_of(w, low, high);
      if (sinks < sinks_end) largest = std::max(largest, largest_of(w, sinks, sinks_end));
      const T scale = a.scale(), shift = scale * largest;
      T sum = weigh(w, low, high, scale, shift);
      if (sinks < sinks_end) sum += weigh(w, sinks, sinks_end, scale, shift);
      inverse[i] = T(1) / sum;
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

  /// The mass of each row's far keys and that times their distance, to columns 2 head and 2 head + 1.
  void reach(const attention_reach_arguments<T>& r, index head) {
    locate();
    auto memory = worker.template scratch<T>(scratch() + count);
    T *w = memory.data(), *inverse = w + scratch();
    against(q, ldq, a.k, a.past.keys, w);
    softmax(w, inverse);
    for (index i = 0; i < count; ++i, w += ld) {
      const index t = time + i, low = a.first(sequence, t) + r.sinks, high = t - r.beyond;
      T mass = 0, distance = 0;
      for (index s = low, c = column_of(low); s <= high; ++s, ++c)
        mass += w[c], distance += w[c] * static_cast<T>(t - s);
      T* sums = r.sums.row(sequence * a.seq.time + t) + 2 * head;
      sums[0] = t >= r.from ? mass * inverse[i] : T(0), sums[1] = t >= r.from ? distance * inverse[i] : T(0);
    }
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
      for (index c = 0; c < keys; ++c) {
        pi[c] *= inverse[i];
        di[c] = a.scale() * pi[c] * (di[c] - mean);
      }
    }
    combine(ds, a.k, a.past.keys, dq, lddq);
    for (index i = 0; i < number; ++i) {
      const auto& [first, seen, slot, column] = runs[i];
      if (first < 0) continue;
      gemm_on<P, T>(worker, seen, n, count, transposed(ds + column, ld), plain(q, ldq), T(1), dk + first * lddk,
                    lddk);
      gemm_on<P, T>(worker, seen, n, count, transposed(p + column, ld), plain(dy, lddy), T(1),
                    dv + first * lddv, lddv);
    }
  }

 private:
  /// Positions first .. end - 1 become columns.
  void add(index first, index end) {
    while (first < end) {
      run r{first, end - first, 0, keys};
      if (first < 0) {
        const attention_shape& shape = a.shape;
        const index place = a.past_length(sequence) + first;
        r.slot = shape.slot(place), r.count = std::min(r.count, -first);
        if (shape.window > 0)  // the ring follows the sinks, and begins anew
          r.count = std::min(r.count, shape.sinks + shape.window - r.slot);
      }
      runs[number++] = r;
      first += r.count, keys += r.count;
    }
  }
  /// Of a position, or of the next that has a column.
  index column_of(index s) const {
    for (index i = 0; i < number; ++i)
      if (s < runs[i].first + runs[i].count) return runs[i].column + std::max<index>(s - runs[i].first, 0);
    return keys;
  }
  static T largest_of(const T* w, index low, index high) {
    index c = low;
    T largest = w[low];
    if (high - low >= V::width) {
      V wide = V::load(w + c);
      for (c += V::width; c + V::width <= high; c += V::width) wide = max(wide, V::load(w + c));
      largest = wide.v.maxCoeff();
    }
    for (; c < high; ++c) largest = std::max(largest, w[c]);
    return largest;
  }
  /// w = exp(scale w - shift); returns the sum.
  static T weigh(T* w, index low, index high, T scale, T shift) {
    using std::exp;
    V wide(0);
    T sum = 0;
    index c = low;
    for (; c + V::width <= high; c += V::width) {
      const V e = exp(V::load(w + c) * V(scale) - V(shift));
      e.store(w + c);
      wide += e;
    }
    for (; c < high; ++c) sum += w[c] = exp(w[c] * scale - shift);
    return sum + wide.v.sum();
  }
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
    for (index j = 0; j < number; ++j) {
      const index stride = stride_of(runs[j], m);
      const T *p = rows_of(runs[j], m, before) + c, *weight = w + runs[j].column;
      for (index s = 0; s < runs[j].count; ++s, p += stride) {
        const W x = math::load<W>(p);
        for (int i = 0; i < Rows; ++i) sum[i] = sum[i] + W(weight[i * ld + s]) * x;
      }
    }
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

/// One sequence, head and block of queries a task.
template <Precision P, class T>
void write_attention_reach(basic_cpu<P>& device, const attention_reach_arguments<T>& r) {
  const auto& a = r.attention;
  constexpr index block = detail::attention_rows<P, T>::block;
  const index n = a.shape.width, blocks = (a.seq.time + block - 1) / block;
  device.tasks(a.seq.batch * a.shape.heads * blocks, [&](index task, cpu_base::worker& w) {
    const index b = task / blocks / a.shape.heads, head = task / blocks % a.shape.heads,
                t = task % blocks * block;
    detail::attention_rows<P, T>{w,
                                 a,
                                 b,
                                 head / a.shape.group(),
                                 t,
                                 1,
                                 std::min(block, a.seq.time - t),
                                 a.q.row(b * a.seq.time + t) + head * n,
                                 a.q.stride}
        .reach(r, head);
  });
}

}  // namespace distil_xlstm::device
