#pragma once

#include <cmath>
#include <limits>

#include <distil_xlstm/device/cuda/fast_scalar.cuh>
#include <distil_xlstm/device/cuda/launch.cuh>
#include <distil_xlstm/device/cuda/vector_access.cuh>
#include <distil_xlstm/op/mlstm/op.hpp>

// What the gates of mLSTM make of each position: decays, stabilisers, and in backward their own gradients.
namespace distil_xlstm::device::detail {

/// Positions that the kernels take at once. mlstm_shape::chunk only says how much memory the tape has.
inline constexpr int mlstm_chunk = mlstm_shape::rounded_chunk;

/// Of each position, [sequences * heads, padded time], and of each chunk. D~_ts = row_t + column_s in units of
/// log 2, each in two parts: b cancels between them, so that its rounding would be the decay's error.
struct mlstm_rows {
  float *row, *row_rest, *column, *column_rest;
  float* mu;
  float* past;   ///< beta times the scale of q
  float* left;   ///< D_Ls: what is left of a key at the chunk's end
  int* first;    ///< in its chunk, the first position that the row sees
  int* marks;    ///< whether a document begins here, and whether mu is this position's own
  float* decay;  ///< of each chunk: beta_L
  int* empty;    ///< of each sequence and head: nothing enters it
};
inline constexpr int mlstm_begins = 1, mlstm_own = 2;

/// f.operator()<Threads>() with the threads of a block of the two kernels below, which has a sequence and head: few
/// where there are few positions, four a thread, so that several blocks share a multiprocessor.
template <class F>
void with_mlstm_gate_threads(index chunks, const F& f) {
  if (chunks * mlstm_chunk <= 4 * 128)
    f.template operator()<128>();
  else
    f.template operator()<512>();
}

/// The inclusive scan of a warp's lanes, which begins anew at each lane whose `head` is set; afterwards `head`
/// says whether one was set so far.
template <class Join>
__device__ double scan_lanes(double x, bool& head, const Join& join) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const double before = __shfl_up_sync(~0u, x, step);
    const bool before_head = __shfl_up_sync(~0u, static_cast<int>(head), step) != 0;
    if (lane >= step && !head) x = join(before, x), head = before_head;
  }
  return x;
}

struct mlstm_gates {
  sequence_view seq;
  index heads, chunks;
  matrix_view<const float> i, f;
  const float* m;  ///< entering, of sequence b and head e at m[b * m_stride + e]
  index m_stride;
  double empty_m;
  float scale;             ///< of q
  float *m_last, *m_kept;  ///< leaving, laid out as m; entering, [sequences * heads]; or null
};

/// A block a sequence and head, a warp a chunk. Sums of log sigmoid(f~) are made in double.
template <int Threads>
__global__ void __launch_bounds__(Threads)
    mlstm_gates_kernel(earlier_kernels earlier, mlstm_gates g, mlstm_rows out) {
  constexpr int warps = Threads / 32, each = mlstm_chunk / 32;
  constexpr double lowest = -std::numeric_limits<double>::infinity(), log2e = 1.4426950408889634;
  __shared__ double chunk_sum[warps], chunk_max[warps], entering[warps];
  __shared__ bool carries[warps];
  const index task = blockIdx.x, b = task / g.heads, e = task % g.heads, time = g.seq.time;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const index row0 = b * time;
  earlier.wait();
  const auto add = [](double x, double y) { return x + y; };
  const auto max_of = [](double x, double y) { return x > y ? x : y; };
  double m = static_cast<double>(g.m[b * g.m_stride + e]);
  if (threadIdx.x == 0) {
    if (g.m_kept) g.m_kept[task] = static_cast<float>(m);
    out.empty[task] = g.seq.begins(b, 0) || m == lowest;
  }

  for (index group = 0; group < g.chunks; group += warps) {
    const index chunk = group + warp;
    const bool there = chunk < g.chunks;
    const index origin = chunk * mlstm_chunk, t0 = origin + lane * each;
    double b_sum[each], shifted[each], best[each];
    bool begins[each], carried[each];
    index start[each];
    bool head = false;
    double sum = 0;
#pragma unroll
    for (int j = 0; j < each; ++j) {
      // Past the end: no input, and nothing is forgotten.
      const index t = t0 + j, at = t < time ? t : time - 1;
      start[j] = there ? g.seq.document_start(b, at) : -1;
      begins[j] = t < time && start[j] == t;
      double log_f = 0;
      shifted[j] = lowest;
      if (t < time) {
        const float f = g.f.row(row0 + t)[e];
        log_f = static_cast<double>(fminf(f, 0)) - static_cast<double>(log1pf(expf(-fabsf(f))));
        shifted[j] = static_cast<double>(g.i.row(row0 + t)[e]);
      }
      if (begins[j]) sum = 0, head = true;
      sum += log_f;
      b_sum[j] = sum;
    }
    // Sums, then maxima of i~ - b, over the lanes before.
    const bool head_here = head;
    bool seen = head;
    double before = scan_lanes(sum, seen, add);
    before = __shfl_up_sync(~0u, before, 1);
    bool seen_before = __shfl_up_sync(~0u, static_cast<int>(seen), 1) != 0;
    if (lane == 0) before = 0, seen_before = false;
    bool fresh = false;
    double max = lowest;
#pragma unroll
    for (int j = 0; j < each; ++j) {
      fresh = fresh || begins[j];
      carried[j] = !fresh && !seen_before;
      if (!fresh) b_sum[j] += before;
      shifted[j] -= b_sum[j];
      if (begins[j]) max = lowest;
      max = max_of(max, shifted[j]);
      best[j] = max;
    }
    bool seen_max = head_here;
    double max_before = scan_lanes(max, seen_max, max_of);
    max_before = __shfl_up_sync(~0u, max_before, 1);
    if (lane == 0) max_before = lowest;
    fresh = false;
#pragma unroll
    for (int j = 0; j < each; ++j) {
      fresh = fresh || begins[j];
      if (!fresh) best[j] = max_of(max_before, best[j]);
    }
    if (lane == 31)
      chunk_sum[warp] = b_sum[each - 1], chunk_max[warp] = best[each - 1], carries[warp] = carried[each - 1];
    __syncthreads();
    if (threadIdx.x == 0)
      for (int w = 0; w < warps && group + w < g.chunks; ++w) {
        entering[w] = m;
        m = static_cast<double>(
            static_cast<float>(chunk_sum[w] + max_of(carries[w] ? m : g.empty_m, chunk_max[w])));
      }
    __syncthreads();

    if (there) {
      double row[each];
      stored<float, each> high, high_rest, column, column_rest, mus, past, left;
      stored<int, each> firsts, marks;
      const double m_in = entering[warp];
      double previous = max_before;  // of best, in the row's own document
#pragma unroll
      for (int j = 0; j < each; ++j) {
        const double floor = carried[j] ? m_in : g.empty_m;
        if (begins[j]) previous = lowest;
        const float mu = static_cast<float>(b_sum[j] + max_of(floor, best[j]));
        const bool own = shifted[j] > max_of(floor, previous);
        previous = best[j];
        row[j] = mu == -INFINITY ? 0.0 : (b_sum[j] - static_cast<double>(mu)) * log2e;
        high.s[j] = static_cast<float>(row[j]);
        high_rest.s[j] = static_cast<float>(row[j] - static_cast<double>(high.s[j]));
        const float of_key = static_cast<float>(shifted[j] * log2e);
        column.s[j] = of_key;
        column_rest.s[j] =
            of_key == -INFINITY ? 0.0f : static_cast<float>(shifted[j] * log2e - static_cast<double>(of_key));
        mus.s[j] = mu;
        const float beta = carried[j] && m_in > lowest
                               ? expf(static_cast<float>(b_sum[j] + m_in - static_cast<double>(mu)))
                               : 0.0f;
        past.s[j] = beta * g.scale;
        const index first = start[j] - origin;
        firsts.s[j] = first > 0 ? static_cast<int>(first) : 0;
        marks.s[j] = (begins[j] ? mlstm_begins : 0) | (own ? mlstm_own : 0);
        if (lane == 31 && j == each - 1) out.decay[task * g.chunks + chunk] = beta;
      }
      const double row_last = __shfl_sync(~0u, row[each - 1], 31);
      const index first_last = __shfl_sync(~0u, start[each - 1], 31);
#pragma unroll
      for (int j = 0; j < each; ++j)
        left.s[j] =
            t0 + j >= first_last ? exp2_approx(static_cast<float>(row_last + shifted[j] * log2e)) : 0.0f;
      const auto store = [at = task * g.chunks * mlstm_chunk + t0]<class X>(X* to, const stored<X, each>& x) {
        *reinterpret_cast<stored<X, each>*>(to + at) = x;
      };
      store(out.row, high), store(out.row_rest, high_rest);
      store(out.column, column), store(out.column_rest, column_rest);
      store(out.mu, mus), store(out.past, past), store(out.left, left);
      store(out.first, firsts), store(out.marks, marks);
    }
    __syncthreads();  // before the next group's totals
  }
  if (threadIdx.x == 0 && g.m_last) g.m_last[b * g.m_stride + e] = static_cast<float>(m);
}

struct mlstm_gate_gradients {
  sequence_view seq;
  index heads, padded;
  mlstm_rows rows;
  matrix_view<const float> f;
  const float *q_dq, *k_dk;  ///< [parts, sequences * heads, padded]: to be summed over the parts
  index parts;
  const float* dmu;     ///< of the stabiliser, by epsilon
  const double* inner;  ///< <dC_last, C_last> + <dn_last, n_last> of each sequence and head; or null
  bool first_is_free;   ///< the first forget gate of a document has no influence
  matrix_view<float> di, df;
};

/// The inclusive sum over a block's threads, begun anew at each thread whose `head` is set. `carry` enters, and
/// what is left at the end leaves.
template <int Threads>
__device__ double scan_block(double x, bool head, double& carry) {
  constexpr int warps = Threads / 32;
  __shared__ double sums[warps];
  __shared__ bool heads[warps];
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  x = scan_lanes(x, head, [](double a, double b) { return a + b; });
  __syncthreads();  // of the call before
  if (lane == 31) sums[warp] = x, heads[warp] = head;
  __syncthreads();
  double before = carry;
  for (int w = 0; w < warps; ++w) {
    if (w == warp && !head) x += before;
    before = heads[w] ? sums[w] : before + sums[w];
  }
  carry = before;
  return x;
}

/// di = k.dk + what comes to the stabiliser's position; df by the sum of q.dq - k.dk over the rest of the
/// document. A block a sequence and head, from the last position to the first; each thread has `each`
/// positions.
template <int Threads>
__global__ void __launch_bounds__(Threads)
    mlstm_gate_gradients_kernel(earlier_kernels earlier, mlstm_gate_gradients g) {
  constexpr int each = 4;
  const index task = blockIdx.x, b = task / g.heads, e = task % g.heads, time = g.seq.time;
  const index base = task * g.padded, part = gridDim.x * g.padded;
  earlier.wait();
  double stabiliser = 0, rest = g.inner ? g.inner[task] : 0;
  for (index end = time; end > 0; end -= Threads * each) {
    // Position j of this thread, the latest first; a segment of either sum is broken where its successor's mark
    // is.
    const index last = end - 1 - static_cast<index>(threadIdx.x) * each;
    float kdk[each], qdq[each], dmu[each];
    int marks[each], after[each];
    double sum = 0;
    bool head = false;
#pragma unroll
    for (int j = 0; j < each; ++j) {
      const index t = last - j;
      kdk[j] = qdq[j] = dmu[j] = 0, marks[j] = 0, after[j] = 0;
      if (t < 0) continue;
      for (index p = 0; p < g.parts; ++p)
        kdk[j] += g.k_dk[p * part + base + t], qdq[j] += g.q_dq[p * part + base + t];
      dmu[j] = g.dmu[base + t], marks[j] = g.rows.marks[base + t];
      after[j] = t + 1 < time ? g.rows.marks[base + t + 1] : 0;
      if (after[j] != 0) sum = 0, head = true;
      sum += static_cast<double>(dmu[j]);
    }
    // What enters a thread is what its neighbour let through.
    __shared__ double passed[Threads];
    double before = stabiliser;
    passed[threadIdx.x] = scan_block<Threads>(sum, head, stabiliser);
    __syncthreads();
    double running = threadIdx.x == 0 ? before : passed[threadIdx.x - 1];
    double routed[each];
    sum = 0, head = false;
#pragma unroll
    for (int j = 0; j < each; ++j) {
      if (after[j] != 0) running = 0;
      running += static_cast<double>(dmu[j]);
      routed[j] = marks[j] & mlstm_own ? running : 0;
      if (after[j] & mlstm_begins) sum = 0, head = true;
      sum +=
          static_cast<double>(qdq[j]) - static_cast<double>(kdk[j]) + static_cast<double>(dmu[j]) - routed[j];
    }
    before = rest;
    __syncthreads();
    passed[threadIdx.x] = scan_block<Threads>(sum, head, rest);
    __syncthreads();
    running = threadIdx.x == 0 ? before : passed[threadIdx.x - 1];
#pragma unroll
    for (int j = 0; j < each; ++j) {
      const index t = last - j;
      if (t < 0) break;
      if (after[j] & mlstm_begins) running = 0;
      running +=
          static_cast<double>(qdq[j]) - static_cast<double>(kdk[j]) + static_cast<double>(dmu[j]) - routed[j];
      const index row = b * time + t;
      g.di.row(row)[e] = static_cast<float>(static_cast<double>(kdk[j]) + routed[j]);
      const float f = g.f.row(row)[e];
      const double slope = 1 / (1 + exp(static_cast<double>(f)));
      g.df.row(row)[e] =
          g.first_is_free && marks[j] & mlstm_begins ? 0.0f : static_cast<float>(slope * running);
    }
    __syncthreads();
  }
}

}  // namespace distil_xlstm::device::detail
