#pragma once

#include <algorithm>

#include <distil_xlstm/device/cuda/reduce.cuh>
#include <distil_xlstm/math/rotary.hpp>
#include <distil_xlstm/op/attention/cuda/parts.cuh>

// Attention of single tokens: keys and values are read once, in order, by many blocks a sequence.
namespace distil_xlstm::device::detail::flash {

/// Sums over some of the keys, by their max_score score.
struct partial_sums {
  float max, sum;
};
/// Sums each of `Count` numbers over `Lanes` threads, each of which gets one of the sums, or Count / Lanes of
/// them, or the same as its neighbours: number lane * Count / Lanes on. Half of what is left changes hands at
/// every step.
template <int Lanes, int Count>
__device__ void scatter_sums(float (&x)[Count], int lane) {
  int left = Count;
#pragma unroll
  for (int step = Lanes / 2; step > 0; step /= 2) {
    if (left > 1) {
      left /= 2;
      const bool upper = lane & step;
#pragma unroll
      for (int i = 0; i < Count / 2; ++i)
        if (i < left) {
          const float given = upper ? x[i] : x[i + left], mine = upper ? x[i + left] : x[i];
          x[i] = mine + __shfl_xor_sync(~0u, given, step);
        }
    } else {
      x[0] += __shfl_xor_sync(~0u, x[0], step);
    }
  }
}
/// How 128 threads share the keys of a split: `Lanes` of them, a team, take a key, `Vectors` times four elements each;
/// up to `Heads` queries meet it.
template <int Lanes, int Vectors, int Heads>
struct decode_tile {
  static constexpr int teams = 128 / Lanes, at_once = 4 / Vectors, padded = 4 * Lanes * Vectors;
  /// Of a split, so that short pasts are few splits.
  static constexpr int min_keys = 2 * teams * at_once;
  // A score (of a head and a key) to each lane, or several, or the same one to `alike` neighbours.
  static constexpr int count = Heads * at_once, each_lane = count > Lanes ? count / Lanes : 1;
  static constexpr int alike = count > Lanes ? 1 : Lanes / count, lanes_a_head = Lanes / Heads;
  using of_heads = float4[Heads][Vectors];
  using of_keys = float4[at_once][Vectors];

  static __device__ int lane() { return static_cast<int>(threadIdx.x) % Lanes; }
  static __device__ int team() { return static_cast<int>(threadIdx.x) / Lanes; }
  static __device__ int column(int vector) { return 4 * (lane() + Lanes * vector); }

  /// What a team's lanes have of the keys from j0 on, counted without those between `seen`'s sinks and its window; zeros
  /// from `end` on.
  static __device__ void load(of_keys& x, const key_rows& row_of, const seen_keys& seen, int j0, int end, int n,
                              bool vectorised) {
#pragma unroll
    for (int u = 0; u < at_once; ++u) {
      const int j = j0 + u * teams + team(), key = j < seen.sinks_end ? j : j + seen.recent - seen.sinks_end;
#pragma unroll
      for (int i = 0; i < Vectors; ++i)
        x[u][i] = j < end ? load4(row_of(key), column(i), n, vectorised) : float4{0, 0, 0, 0};
    }
  }
  /// s[head, key] = q . k, this lane's part of it.
  static __device__ void multiply(float (&s)[count], const of_heads& q, const of_keys& k, int heads) {
#pragma unroll
    for (int h = 0; h < Heads; ++h)
#pragma unroll
      for (int u = 0; u < at_once; ++u) {
        float& x = s[h * at_once + u];
        x = 0;
        if (h < heads)
#pragma unroll
          for (int i = 0; i < Vectors; ++i) x = add_dot(x, q[h][i], k[u][i]);
      }
  }
  /// out <- keep out + weights v
  static __device__ void combine(of_heads& out, const float* keep, const float* weights, const of_keys& v,
                                 int heads) {
#pragma unroll
    for (int h = 0; h < Heads; ++h) {
      if (h >= heads) break;
      const float old = keep[h];
#pragma unroll
      for (int i = 0; i < Vectors; ++i) {
        float4& o = out[h][i];
        o.x *= old, o.y *= old, o.z *= old, o.w *= old;
#pragma unroll
        for (int u = 0; u < at_once; ++u) o = add_product(o, weights[h * at_once + u], v[u][i]);
      }
    }
  }
};

/// Queries, keys and values as they lie in memory.
struct plain_step {
  static constexpr bool rotates = false;
  __device__ float4 load4(int, const float* head, int c, int n, bool vectorised) const {
    return detail::load4(head, c, n, vectorised);
  }
};
/// A step whose queries and keys are still to be rotated, and whose keys and values are still to be kept. Heads have a
/// multiple of 8 numbers, all of which is read and written 16 bytes at a time; there is no window.
struct rotating_step {
  static constexpr bool rotates = true;
  matrix_view<const float> cosines, sines;      ///< [batch, width / 2]
  batched_state<float> keys, values, position;  ///< as `attention_past` has them
  /// Four of sequence b's head from column c on, rotated; zeros from column n on.
  __device__ float4 load4(int b, const float* head, int c, int n, bool) const {
    if (c >= n) return {0, 0, 0, 0};
    const int half = n / 2, pair = c < half ? c : c - half;
    const float4 low = detail::load4(head + pair), high = detail::load4(head + pair + half),
                 cosine = detail::load4(cosines.row(b) + pair), sine = detail::load4(sines.row(b) + pair);
    const auto one = [&](float l, float h, float co, float si) {
      const auto rotated = math::rotate(l, h, co, si);
      return c < half ? rotated.low : rotated.high;
    };
    return {one(low.x, high.x, cosine.x, sine.x), one(low.y, high.y, cosine.y, sine.y),
            one(low.z, high.z, cosine.z, sine.z), one(low.w, high.w, cosine.w, sine.w)};
  }
  /// Where the token is among the keys from j0 to `end` that a block has loaded: rotates its key, and puts key and
  /// value, if the block `keeps` them, where its document's memory has them.
  template <class Tile>
  __device__ void take_token(const part& p, int j0, int end, bool keeps, typename Tile::of_keys& k,
                             const typename Tile::of_keys& v) const {
    const index place = p.a.seq.document_start(p.b, 0) < 0 ? p.past : 0;
    const index at = (place * p.a.shape.kv_heads + p.kv) * p.a.shape.width;
#pragma unroll
    for (int u = 0; u < Tile::at_once; ++u) {
      if (j0 + u * Tile::teams + Tile::team() != p.past || p.past >= end) continue;
#pragma unroll
      for (int i = 0; i < static_cast<int>(sizeof k[u] / sizeof k[u][i]); ++i) {
        const int c = Tile::column(i);
        k[u][i] = load4(p.b, p.now(p.a.k)(0), c, p.width(), true);
        if (!keeps || c >= p.width()) continue;
        store4_global(keys.of(p.b) + at + c, k[u][i]), store4_global(values.of(p.b) + at + c, v[u][i]);
      }
    }
  }
};

/// Asks for a split's keys and values, or the first of them, to be near when they are read. The length is a guess here:
/// a kernel that still runs may change it.
template <int MinKeys>
__device__ void prefetch_split(const attention_arguments<float>& a, int task, int split, int splits) {
  if (!a.past.length.data) return;
  const part p(a, task);
  const index held = min(static_cast<index>(p.past), static_cast<index>(p.window) + p.sinks);
  const int each = max(static_cast<int>(held) / splits + 1, MinKeys), most = min(each, 2 * MinKeys);
  for (int i = static_cast<int>(threadIdx.x); i < 2 * most; i += 128) {
    const index row = static_cast<index>(split) * each + i / 2;
    if (row >= held) return;
    const auto& from = i % 2 ? a.past.values : a.past.keys;
    prefetch_far(from.of(p.b) + (row * a.shape.kv_heads + p.kv) * a.shape.width, 4 * p.width());
  }
}

template <int Lanes, int Vectors, int Heads, class Step>
__global__ void __launch_bounds__(128, Heads* Vectors == 4 ? 4 : 3)
    decode_kernel(earlier_kernels earlier, attention_arguments<float> a, int splits, bool vectorised, Step step,
                  partial_sums* sums, float* partial) {
  using tile = decode_tile<Lanes, Vectors, Heads>;
  constexpr int teams = tile::teams, at_once = tile::at_once, padded = tile::padded,
                each_lane = tile::each_lane;
  __shared__ partial_sums team_sums[teams][Heads];
  __shared__ __align__(16) float weights[teams][tile::count];
  __shared__ float keeps[teams][Heads];
  __shared__ __align__(16) float team_out[teams][Heads][padded];
  const int group = static_cast<int>(a.shape.group()), parts = (group + Heads - 1) / Heads;
  const int split = static_cast<int>(blockIdx.x) % splits, rest = static_cast<int>(blockIdx.x) / splits;
  earlier.wait([&] {
    if (vectorised && rest % parts == 0) prefetch_split<tile::min_keys>(a, rest / parts, split, splits);
  });
  const part p(a, rest / parts);
  const int head0 = rest % parts * Heads, heads = min(Heads, group - head0), n = p.width();
  // The keys are counted without those between the sinks and the window.
  const seen_keys seen = p.seen(0);
  const int low = seen.low, gap = seen.recent - seen.sinks_end, all_keys = p.keys() - low - gap,
            each = max((all_keys + splits - 1) / splits, tile::min_keys);
  const int begin = low + min(all_keys, split * each), end = low + min(all_keys, (split + 1) * each);
  const int lane = tile::lane(), team = tile::team();
  const index result = (static_cast<index>(p.b) * p.a.shape.heads + p.kv * group + head0) * splits + split;
  const float scale = a.scale();
  if (begin >= end) {
    if (static_cast<int>(threadIdx.x) < heads) sums[result + threadIdx.x * splits] = {no_score, 0};
    return;
  }

  const auto queries = p.queries(a.q);
  const auto keys_of = p.keys_of(a.k, a.past.keys), values_of = p.keys_of(a.v, a.past.values);
  typename tile::of_heads q, out = {};
#pragma unroll
  for (int h = 0; h < Heads; ++h)
#pragma unroll
    for (int i = 0; i < Vectors; ++i)
      q[h][i] =
          h < heads ? step.load4(p.b, queries(head0 + h), tile::column(i), n, vectorised) : float4{0, 0, 0, 0};
  const int first_score = lane / tile::alike * each_lane, my_head = first_score / at_once;
  float max_score = no_score, sum = 0;  // of this lane's head; of this lane's keys

  for (int j0 = begin; j0 < end; j0 += teams * at_once) {
    typename tile::of_keys k, v;
    tile::load(k, keys_of, seen, j0, end, n, vectorised);
    tile::load(v, values_of, seen, j0, end, n, vectorised);
    if constexpr (Step::rotates) step.template take_token<tile>(p, j0, end, head0 == 0, k, v);
    float s[tile::count];
    tile::multiply(s, q, k, heads);
    scatter_sums<Lanes>(s, lane);
    float top = max_score;
#pragma unroll
    for (int i = 0; i < each_lane; ++i) {
      if (j0 + (first_score + i) % at_once * teams + team >= end) s[i] = -INFINITY;
      top = fmaxf(top, s[i]);
    }
    top = warp_max<tile::lanes_a_head, tile::alike>(top);
    const float keep = expf((max_score - top) * scale);
    max_score = top, sum *= keep;
    __syncwarp();
#pragma unroll
    for (int i = 0; i < each_lane; ++i) {
      const float w = expf((s[i] - top) * scale);
      sum += w;
      weights[team][first_score + i] = w;
    }
    keeps[team][my_head] = keep;
    __syncwarp();
    tile::combine(out, keeps[team], weights[team], v, heads);
  }
  sum = warp_sum<tile::lanes_a_head, tile::alike>(sum);
  if (lane % tile::lanes_a_head == 0) team_sums[team][my_head] = {max_score, sum};
  __syncthreads();
#pragma unroll
  for (int h = 0; h < Heads; ++h) {
    if (h >= heads) break;
    float top = no_score, all = 0;
#pragma unroll
    for (int i = 0; i < teams; ++i) top = fmaxf(top, team_sums[i][h].max);
#pragma unroll
    for (int i = 0; i < teams; ++i) all += team_sums[i][h].sum * expf((team_sums[i][h].max - top) * scale);
    const float mine = expf((team_sums[team][h].max - top) * scale) * (splits == 1 ? 1 / all : 1.f);
#pragma unroll
    for (int i = 0; i < Vectors; ++i) {
      const float4 o = out[h][i];
      store4(team_out[team][h] + tile::column(i), {o.x * mine, o.y * mine, o.z * mine, o.w * mine});
    }
    if (splits > 1 && threadIdx.x == 0) sums[result + h * splits] = {top, all};
  }
  __syncthreads();
  const auto results = p.queries(a.y);
  for (int at = static_cast<int>(threadIdx.x); at < heads * padded; at += 128) {
    const int h = at / padded, c = at % padded;
    if (c >= n) continue;
    float x = 0;
#pragma unroll
    for (int i = 0; i < teams; ++i) x += team_out[i][h][c];
    (splits == 1 ? results(head0 + h) : partial + (result + h * splits) * n)[c] = x;
  }
}
/// y of one sequence and head from its splits, at most 64, of which some may have had no keys; and where the next call
/// goes on, if `position` says where that is written.
template <class T>
__global__ void __launch_bounds__(128)
    decode_join_kernel(earlier_kernels earlier, attention_arguments<T> a, int splits, batched_state<T> position,
                       const partial_sums* sums, const T* partial) {
  __shared__ float weights[64];
  earlier.wait();
  const index task = blockIdx.x, n = a.shape.width;
  const index b = task / a.shape.heads, head = task % a.shape.heads;
  if (position.data && head == 0 && threadIdx.x == 0)
    *position.of(b) = static_cast<T>((a.seq.document_start(b, 0) < 0 ? a.past_length(b) : 0) + 1);
  const float scale = a.scale();
  sums += task * splits, partial += task * splits * n;
  if (threadIdx.x < 32) {
    partial_sums mine[2];
    float top = no_score, all = 0, weight[2];
    for (int i = 0; i < 2; ++i) {
      const int split = static_cast<int>(threadIdx.x) + 32 * i;
      mine[i] = split < splits ? sums[split] : partial_sums{no_score, 0};
      top = fmaxf(top, mine[i].max);
    }
    top = warp_max(top);
    for (int i = 0; i < 2; ++i) {
      weight[i] = expf((mine[i].max - top) * scale);
      all += weight[i] * mine[i].sum;
    }
    all = warp_sum(all);
    for (int i = 0; i < 2; ++i) weights[threadIdx.x + 32 * i] = mine[i].sum == 0 ? 0 : weight[i] / all;
  }
  __syncthreads();
  for (index c = threadIdx.x; c < n; c += blockDim.x) {
    T x = 0;
#pragma unroll 8
    for (int i = 0; i < splits; ++i)
      if (weights[i] != 0) x = fmaf(weights[i], partial[i * n + c], x);
    a.y.row(b)[head * n + c] = x;
  }
}

template <int Lanes, int Vectors, int Heads, class Step>
void decode_heads(cuda_base& device, const attention_arguments<float>& a, const Step& step) {
  const index parts = blocks_for(a.shape.group(), Heads), tasks = a.seq.batch * a.shape.kv_heads * parts;
  // Enough blocks to fill the card, whatever the lengths, which the host does not know.
  const index wanted = blocks_for(index{6} * device.multiprocessors(), tasks);
  const index worth =
      a.shape.window > 0 ? (a.shape.window + a.shape.sinks) / decode_tile<Lanes, Vectors, Heads>::min_keys : 64;
  // The kernel that joins splits may move the position, as no other block reads it then.
  constexpr index fewest = Step::rotates ? 2 : 1;
  const int splits =
      a.past.length.data ? static_cast<int>(std::clamp<index>(std::min(wanted, worth), fewest, 64)) : 1;
  const index results = splits > 1 ? a.seq.batch * a.shape.heads * splits : 0;
  auto sums = device.template scratch<partial_sums>(results);
  auto partial = device.template scratch<float>(results * a.shape.width);
  batched_state<float> position;
  if constexpr (Step::rotates) position = step.position;
  launch(device, "attention of single tokens", {static_cast<unsigned>(tasks * splits), 128},
         decode_kernel<Lanes, Vectors, Heads, Step>, a, splits, is_vectorised(a), step, sums.data(),
         partial.data());
  if (splits > 1)
    launch(device, "attention of single tokens", {static_cast<unsigned>(a.seq.batch * a.shape.heads), 128},
           decode_join_kernel<float>, a, splits, position, sums.data(), partial.data());
}
template <int Lanes, int Vectors, class Step>
void decode_groups(cuda_base& device, const attention_arguments<float>& a, const Step& step) {
  if (a.shape.group() == 1) return decode_heads<Lanes, Vectors, 1>(device, a, step);
  if (a.shape.group() == 2) return decode_heads<Lanes, Vectors, 2>(device, a, step);
  if (a.shape.group() <= 4 || Vectors > 1) return decode_heads<Lanes, Vectors, 4>(device, a, step);
  decode_heads<Lanes, Vectors, Vectors == 1 ? 8 : 4>(device, a, step);
}
/// Of heads up to 256 wide.
template <class Step = plain_step>
void decode(cuda_base& device, const attention_arguments<float>& a, const Step& step = {}) {
  if (a.shape.width <= 64) return decode_groups<16, 1>(device, a, step);
  if (a.shape.width <= 128) return decode_groups<32, 1>(device, a, step);
  decode_groups<32, 2>(device, a, step);
}

}  // namespace distil_xlstm::device::detail::flash
