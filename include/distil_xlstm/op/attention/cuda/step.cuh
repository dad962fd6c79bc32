#pragma once

#include <algorithm>

#include <distil_xlstm/device/cuda/reduce.cuh>
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

template <int Lanes, int Vectors, int Heads>
__global__ void __launch_bounds__(128) decode_kernel(attention_arguments<float> a, int splits, bool vectorised,
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
      q[h][i] = h < heads ? load4(queries(head0 + h), tile::column(i), n, vectorised) : float4{0, 0, 0, 0};
  const int first_score = lane / tile::alike * each_lane, my_head = first_score / at_once;
  float max_score = no_score, sum = 0;  // of this lane's head; of this lane's keys

  for (int j0 = begin; j0 < end; j0 += teams * at_once) {
    typename tile::of_keys k, v;
#pragma unroll
    for (int u = 0; u < at_once; ++u) {
      const int j = j0 + u * teams + team, key = j < seen.sinks_end ? j : j + gap;
#pragma unroll
      for (int i = 0; i < Vectors; ++i) {
        const int c = tile::column(i);
        k[u][i] = j < end ? load4(keys_of(key), c, n, vectorised) : float4{0, 0, 0, 0};
        v[u][i] = j < end ? load4(values_of(key), c, n, vectorised) : float4{0, 0, 0, 0};
      }
    }
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
/// y of one sequence and head from its splits, at most 64, of which some may have had no keys.
template <class T>
__global__ void __launch_bounds__(128)
    decode_join_kernel(attention_arguments<T> a, int splits, const partial_sums* sums, const T* partial) {
  __shared__ float weights[64];
  const index task = blockIdx.x, n = a.shape.width;
  const index b = task / a.shape.heads, head = task % a.shape.heads;
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

template <int Lanes, int Vectors, int Heads>
void decode_heads(cuda_base& device, const attention_arguments<float>& a) {
  const index parts = blocks_for(a.shape.group(), Heads), tasks = a.seq.batch * a.shape.kv_heads * parts;
  // Enough blocks to fill the card, whatever the lengths, which the host does not know.
  const index wanted = blocks_for(index{6} * device.multiprocessors(), tasks);
  const index worth =
      a.shape.window > 0 ? (a.shape.window + a.shape.sinks) / decode_tile<Lanes, Vectors, Heads>::min_keys : 64;
  const int splits =
      a.past.length.data ? static_cast<int>(std::clamp<index>(std::min(wanted, worth), 1, 64)) : 1;
  const index results = splits > 1 ? a.seq.batch * a.shape.heads * splits : 0;
  auto sums = device.template scratch<partial_sums>(results);
  auto partial = device.template scratch<float>(results * a.shape.width);
  launch(device, "attention of single tokens", {static_cast<unsigned>(tasks * splits), 128},
         decode_kernel<Lanes, Vectors, Heads>, a, splits, is_vectorised(a), sums.data(), partial.data());
  if (splits > 1)
    launch(device, "attention of single tokens", {static_cast<unsigned>(a.seq.batch * a.shape.heads), 128},
           decode_join_kernel<float>, a, splits, sums.data(), partial.data());
}
template <int Lanes, int Vectors>
void decode(cuda_base& device, const attention_arguments<float>& a) {
  if (a.shape.group() == 1) return decode_heads<Lanes, Vectors, 1>(device, a);
  if (a.shape.group() == 2) return decode_heads<Lanes, Vectors, 2>(device, a);
  if (a.shape.group() <= 4 || Vectors > 1) return decode_heads<Lanes, Vectors, 4>(device, a);
  decode_heads<Lanes, Vectors, Vectors == 1 ? 8 : 4>(device, a);
}

}  // namespace distil_xlstm::device::detail::flash
