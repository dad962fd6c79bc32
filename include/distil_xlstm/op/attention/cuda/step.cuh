#pragma once

#include <algorithm>

#include <distil_xlstm/device/cuda/reduce.cuh>
#include <distil_xlstm/math/rotary.hpp>
#include <distil_xlstm/op/attention/cuda/parts.cuh>

// Attention of single tokens: keys and values are read once, in order, by many blocks a sequence.
namespace distil_xlstm::device::detail::flash {

/// Sums over some of the keys, relative to their largest score.
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

  /// What a team's lanes have of the keys from j0 on, counted without those between `seen`'s sinks and its window;
  /// zeros from `end` on.
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

/// The device's counters before this one are a sequence's each, those from it on a task's: a `rotating_step` has no more
/// sequences.
inline constexpr int task_counters = 64;

/// Queries, keys and values as they lie in memory.
struct plain_step {
  static constexpr bool rotates = false;
  __device__ float4 load4(int, const float* head, int c, int n, bool vectorised) const {
    return detail::load4(head, c, n, vectorised);
  }
};
/// A step whose queries and keys are still to be rotated, and whose keys and values are still to be kept. Heads have
/// a multiple of 8 numbers, and all is read and written 16 bytes at a time; there is no window.
struct rotating_step {
  static constexpr bool rotates = true;
  matrix_view<const float> cosines, sines;      ///< [batch, width / 2]
  batched_state<float> keys, values, position;  ///< as `attention_past` has them
  index capacity;                               ///< tokens that they hold
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

/// Asks for a split's keys and values, or the first of them, to be near when they are read. The length is a guess
/// here: a kernel that still runs may change it.
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

/// What a block does: keys `begin` .. `end` - 1, counted without those between the sinks and the window, for `heads`
/// queries from head0 on of a group.
struct split_of_keys {
  seen_keys seen;
  int begin, end, head0, heads;
  int splits, shared;  ///< blocks for these queries, and those of them that have keys
  index result;        ///< where its first head's sums lie; the next head's are `splits` further on

  __device__ split_of_keys(const part& p, int first_head, int most_heads, int split, int all_splits,
                           int min_keys)
      : seen(p.seen(0)), head0(first_head), heads(min(most_heads, p.group - first_head)), splits(all_splits) {
    const int all_keys = p.keys() - seen.low - (seen.recent - seen.sinks_end),
              each = max((all_keys + splits - 1) / splits, min_keys);
    begin = seen.low + min(all_keys, split * each), end = seen.low + min(all_keys, (split + 1) * each);
    shared = (all_keys + each - 1) / each;
    result = (static_cast<index>(p.b) * p.a.shape.heads + p.kv * p.group + head0) * splits + split;
  }
};
/// Attention to a split's keys: the results where no other block has keys, else a part of them.
template <int Lanes, int Vectors, int Heads, class Step>
__device__ void attend_split(const part& p, const split_of_keys& of, bool vectorised, const Step& step,
                             partial_sums* sums, float* partial) {
  using tile = decode_tile<Lanes, Vectors, Heads>;
  constexpr int teams = tile::teams, at_once = tile::at_once, padded = tile::padded,
                each_lane = tile::each_lane;
  __shared__ partial_sums team_sums[teams][Heads];
  __shared__ __align__(16) float weights[teams][tile::count];
  __shared__ float keeps[teams][Heads];
  __shared__ __align__(16) float team_out[teams][Heads][padded];
  const seen_keys& seen = of.seen;
  const int head0 = of.head0, heads = of.heads, begin = of.begin, end = of.end, n = p.width();
  const int lane = tile::lane(), team = tile::team();
  const float scale = p.a.scale();
  const auto queries = p.queries(p.a.q);
  const auto keys_of = p.keys_of(p.a.k, p.a.past.keys), values_of = p.keys_of(p.a.v, p.a.past.values);
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
    const float mine = expf((team_sums[team][h].max - top) * scale) * (of.shared == 1 ? 1 / all : 1.f);
#pragma unroll
    for (int i = 0; i < Vectors; ++i) {
      const float4 o = out[h][i];
      store4(team_out[team][h] + tile::column(i), {o.x * mine, o.y * mine, o.z * mine, o.w * mine});
    }
    if (of.shared > 1 && threadIdx.x == 0) sums[of.result + h * of.splits] = {top, all};
  }
  __syncthreads();
  const auto results = p.queries(p.a.y);
  for (int at = static_cast<int>(threadIdx.x); at < heads * padded; at += 128) {
    const int h = at / padded, c = at % padded;
    if (c >= n) continue;
    float x = 0;
#pragma unroll
    for (int i = 0; i < teams; ++i) x += team_out[i][h][c];
    (of.shared == 1 ? results(head0 + h) : partial + (of.result + h * of.splits) * n)[c] = x;
  }
}

/// y from the parts of the blocks that have keys, at most 64.
template <int Heads>
__device__ void join_splits(const part& p, const split_of_keys& of, const partial_sums* sums,
                            const float* partial) {
  __shared__ float weights[Heads][64];
  const int n = p.width(), lane = static_cast<int>(threadIdx.x) % 32;
  const float scale = p.a.scale();
  const index first = of.result - of.result % of.splits;
  for (int h = static_cast<int>(threadIdx.x) / 32; h < of.heads; h += 4) {
    float2 mine[2];
    float top = no_score, all = 0;
    for (int i = 0; i < 2; ++i) {
      const int split = lane + 32 * i;
      mine[i] = split < of.shared
                    ? __ldcg(reinterpret_cast<const float2*>(sums + first + h * of.splits + split))
                    : float2{no_score, 0};
      top = fmaxf(top, mine[i].x);
    }
    top = warp_max(top);
    for (int i = 0; i < 2; ++i) {
      mine[i].x = expf((mine[i].x - top) * scale);
      all += mine[i].x * mine[i].y;
    }
    all = warp_sum(all);
    for (int i = 0; i < 2; ++i) weights[h][lane + 32 * i] = mine[i].x / all;
  }
  __syncthreads();
  const auto results = p.queries(p.a.y);
  for (int at = static_cast<int>(threadIdx.x); at < of.heads * n; at += 128) {
    const int h = at / n, c = at % n;
    const float* from = partial + (first + h * of.splits) * n + c;
    float x = 0;
#pragma unroll 8
    for (int i = 0; i < of.shared; ++i) x = fmaf(weights[h][i], __ldcg(from + static_cast<index>(i) * n), x);
    results(of.head0 + h)[c] = x;
  }
}

/// `counters`: one a sequence, then from `task_counters` on one for the blocks that share queries; all 0 between
/// kernels.
template <int Lanes, int Vectors, int Heads, class Step>
__global__ void __launch_bounds__(128, Heads* Vectors == 4 ? 4 : 3)
    decode_kernel(earlier_kernels earlier, attention_arguments<float> a, int splits, bool vectorised, Step step,
                  partial_sums* sums, float* partial, unsigned* counters) {
  constexpr int min_keys = decode_tile<Lanes, Vectors, Heads>::min_keys;
  const int group = static_cast<int>(a.shape.group()), parts = (group + Heads - 1) / Heads;
  const int split = static_cast<int>(blockIdx.x) % splits, task = static_cast<int>(blockIdx.x) / splits;
  earlier.wait([&] {
    if (vectorised && task % parts == 0) prefetch_split<min_keys>(a, task / parts, split, splits);
  });
  const part p(a, task / parts);
  const split_of_keys of(p, task % parts * Heads, Heads, split, splits, min_keys);
  if (of.begin < of.end)
    attend_split<Lanes, Vectors, Heads>(p, of, Step::rotates || vectorised, step, sums, partial);
  if (splits == 1 && !Step::rotates) return;
  if (!comes_last(counters + task_counters + task, splits)) return;
  // All blocks for these queries have read the position: behind the last of the sequence's it may move.
  bool moves = false;
  if constexpr (Step::rotates)
    moves = threadIdx.x == 0 && counts_last(counters + p.b, static_cast<int>(a.shape.kv_heads) * parts);
  if (of.shared > 1) join_splits<Heads>(p, of, sums, partial);
  if constexpr (Step::rotates)
    if (moves) *step.position.of(p.b) = static_cast<float>((a.seq.document_start(p.b, 0) < 0 ? p.past : 0) + 1);
}

template <int Lanes, int Vectors, int Heads, class Step>
void decode_heads(cuda_base& device, const attention_arguments<float>& a, const Step& step) {
  if constexpr (Step::rotates)
    require(a.seq.batch <= task_counters, "cuda: attention rotates queries of up to ", task_counters,
            " sequences in a step, not of ", a.seq.batch);
  const index parts = blocks_for(a.shape.group(), Heads), tasks = a.seq.batch * a.shape.kv_heads * parts;
  // Enough blocks to fill the card, whatever the lengths, which the host does not know.
  const index wanted = blocks_for(index{6} * device.multiprocessors(), tasks);
  constexpr index min_keys = decode_tile<Lanes, Vectors, Heads>::min_keys;
  index worth = a.shape.window > 0 ? (a.shape.window + a.shape.sinks) / min_keys : 64;
  if constexpr (Step::rotates) worth = blocks_for(step.capacity, min_keys);
  if (task_counters + tasks > device.counter_count) worth = 1;
  const int splits =
      a.past.length.data ? static_cast<int>(std::clamp<index>(std::min(wanted, worth), 1, 64)) : 1;
  const index results = splits > 1 ? a.seq.batch * a.shape.heads * splits : 0;
  auto sums = device.template scratch<partial_sums>(results);
  auto partial = device.template scratch<float>(results * a.shape.width);
  launch(device, "attention of single tokens", {static_cast<unsigned>(tasks * splits), 128},
         decode_kernel<Lanes, Vectors, Heads, Step>, a, splits, is_vectorised(a), step, sums.data(),
         partial.data(), device.counters());
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
