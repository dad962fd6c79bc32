#pragma once

#include <cstdint>

#include <distil_xlstm/device/cuda/reduce.cuh>
#include <distil_xlstm/math/rotary.hpp>
#include <distil_xlstm/op/attention/cuda/parts.cuh>

// Attention of single tokens: what a block does with its keys, which they are, and how parts of a result are joined.
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
/// Of the sums that `Parts` teams or blocks have of each of `Heads` queries, what each of them is worth beside the
/// others', and the sums of all: a warp finds them, a lane or more a part and query.
template <int Parts, int Heads>
struct part_weights {
  static constexpr int pairs = Parts * Heads, rounds = (pairs + 31) / 32;
  float weight[rounds];
  partial_sums all[rounds];

  __device__ part_weights(const partial_sums (&of)[Heads][Parts], float scale) {
#pragma unroll
    for (int r = 0; r < rounds; ++r) {
      const int pair = (static_cast<int>(threadIdx.x) % 32 + 32 * r) % pairs;
      const partial_sums mine = of[pair / Parts][pair % Parts];
      const float max = warp_max<Parts>(mine.max);
      weight[r] = expf((mine.max - max) * scale);
      all[r] = {max, warp_sum<Parts>(weight[r] * mine.sum)};
    }
  }
  /// Where there are no further parts.
  __device__ void normalise() {
#pragma unroll
    for (int r = 0; r < rounds; ++r) weight[r] /= all[r].sum;
  }
  /// By all lanes of the warp, of the same head.
  __device__ float of(int head, int part) const {
    float x = weight[0];
#pragma unroll
    for (int r = 1; r < rounds; ++r) x = head * Parts / 32 == r ? weight[r] : x;
    return __shfl_sync(~0u, x, head * Parts % 32 + part);
  }
  /// f(head, sums of all), by a lane of the first warp each.
  template <class F>
  __device__ void each_head(const F& f) const {
#pragma unroll
    for (int r = 0; r < rounds; ++r)
      if (const int i = static_cast<int>(threadIdx.x) + 32 * r; threadIdx.x < 32 && i < pairs && i % Parts == 0)
        f(i / Parts, all[r]);
  }
};

/// How 128 threads share the keys of a split: `Lanes` of them, a team, take a key, `Vectors` times four elements each;
/// up to `Heads` queries meet it.
template <int Lanes, int Vectors, int Heads>
struct decode_tile {
  static constexpr int teams = 128 / Lanes, at_once = 4 / Vectors, padded = 4 * Lanes * Vectors;
  /// Of a split, so that short pasts are few splits.
  static constexpr int min_keys = 2 * teams * at_once;
  /// Blocks that join their parts in the shared memory of one.
  static constexpr int cluster = Heads * padded <= 512 ? 8 : 4;
  // A score (of a head and a key) to each lane, or several, or the same one to `alike` neighbours.
  static constexpr int count = Heads * at_once, each_lane = count > Lanes ? count / Lanes : 1;
  static constexpr int alike = count > Lanes ? 1 : Lanes / count, lanes_a_head = Lanes / Heads;
  using of_heads = float4[Heads][Vectors];
  using of_keys = float4[at_once][Vectors];
  using of_token = float4[Vectors];

  static __device__ int lane() { return static_cast<int>(threadIdx.x) % Lanes; }
  static __device__ int team() { return static_cast<int>(threadIdx.x) / Lanes; }
  static __device__ int column(int vector) { return 4 * (lane() + Lanes * vector); }

  /// f(u, key) for the keys from j0 on that a team has, counted without those between `seen`'s sinks and its window.
  template <class F>
  static __device__ void each_key(const seen_keys& seen, int j0, const F& f) {
#pragma unroll
    for (int u = 0; u < at_once; ++u) {
      const int j = j0 + u * teams + team();
      f(u, j, j < seen.sinks_end ? j : j + seen.recent - seen.sinks_end);
    }
  }
  /// What a team's lanes have of those of the past, of rows `stride` apart; zeros from `end` on.
  template <class Slot>
  static __device__ void load(of_keys& x, const float* rows, int stride, const Slot& slot,
                              const seen_keys& seen, int j0, int end, int n, bool vectorised) {
    each_key(seen, j0, [&](int u, int j, int key) {
      const bool there = j < end && key < seen.high;
      const float* row = rows + static_cast<index>(there ? slot(key) : 0) * stride;
#pragma unroll
      for (int i = 0; i < Vectors; ++i)
        x[u][i] = there ? load4(row, column(i), n, vectorised) : float4{0, 0, 0, 0};
    });
  }
  /// The token itself is the last of them.
  static __device__ void take_own(of_keys& x, const of_token& own, const seen_keys& seen, int j0) {
    each_key(seen, j0, [&](int u, int, int key) {
#pragma unroll
      for (int i = 0; i < Vectors; ++i)
        if (key == seen.high) x[u][i] = own[i];
    });
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
  struct angles {};
  struct angle_places {
    __device__ angle_places(const plain_step&, int, int, int) {}
    __device__ angles load() const { return {}; }
  };
  /// Four of a head from column c on, zeros from column n on: where they lie, as they lie, and as they are meant.
  static __device__ const float* place(const float* head, int, int) { return head; }
  using four = float4;
  static __device__ four load(const float* place, int c, int n, bool vectorised) {
    return load4(place, c, n, vectorised);
  }
  static __device__ float4 rotated(const four& x, const angles&, int, int) { return x; }
  static __device__ int slot(const attention_shape& shape, int key) { return shape.slot(key); }
};
/// A step whose queries and keys are still to be rotated, and whose keys and values are still to be kept. Heads have
/// a multiple of 8 numbers, and all is read and written 16 bytes at a time; there is no window.
struct rotating_step {
  static constexpr bool rotates = true;
  matrix_view<const float> cosines, sines;      ///< [batch, width / 2]
  batched_state<float> keys, values, position;  ///< as `attention_past` has them
  index capacity;                               ///< tokens that they hold
  static __device__ int slot(const attention_shape&, int key) { return key; }

  struct angles {
    float4 cosine, sine;
  };
  struct four {
    float4 low, high;
  };
  /// The pair that column c belongs to. (Without branches, behind which loads would wait for one another: from column n
  /// on, the first.)
  static __device__ int pair_of(int c, int n) { return c >= n ? 0 : c < n / 2 ? c : c - n / 2; }
  struct angle_places {
    const float *cosine, *sine;
    __device__ angle_places(const rotating_step& of, int b, int c, int n)
        : cosine(of.cosines.row(b) + pair_of(c, n)), sine(of.sines.row(b) + pair_of(c, n)) {
      hold_global(cosine), hold_global(sine);
    }
    __device__ angles load() const { return {load4(cosine), load4(sine)}; }
  };
  static __device__ const float* place(const float* head, int c, int n) { return head + pair_of(c, n); }
  static __device__ four load(const float* place, int, int n, bool) {
    return {load4(place), load4(place + n / 2)};
  }
  static __device__ float4 rotated(const four& x, const angles& by, int c, int n) {
    const auto one = [&](float low, float high, float cosine, float sine) {
      const auto to = math::rotate(low, high, cosine, sine);
      return c >= n ? 0.f : c < n / 2 ? to.low : to.high;
    };
    return {one(x.low.x, x.high.x, by.cosine.x, by.sine.x), one(x.low.y, x.high.y, by.cosine.y, by.sine.y),
            one(x.low.z, x.high.z, by.cosine.z, by.sine.z), one(x.low.w, x.high.w, by.cosine.w, by.sine.w)};
  }
};

/// Asks for a split's keys and values, or the first of them, to be near when they are read. The length is a guess
/// here: a kernel that still runs may change it.
template <int MinKeys>
__device__ void prefetch_split(const part& p, int split, int splits) {
  const auto& past = p.a.past;
  if (!past.length.data) return;
  const index held = min(static_cast<index>(p.a.past_length(p.b)), static_cast<index>(p.window) + p.sinks);
  const int each = max(static_cast<int>(held) / splits + 1, MinKeys), most = min(each, 2 * MinKeys);
  for (int i = static_cast<int>(threadIdx.x); i < 2 * most; i += 128) {
    const index row = static_cast<index>(split) * each + i / 2;
    if (row >= held) return;
    const auto& from = i % 2 ? past.values : past.keys;
    prefetch_far(from.of(p.b) + (row * p.a.shape.kv_heads + p.kv) * p.a.shape.width, 4 * p.width());
  }
}

/// Blocks that share a query's keys.
struct key_splits {
  int count;
  unsigned inverse;
  explicit key_splits(int n) : count(n), inverse(~0u / static_cast<unsigned>(n)) {}
  /// keys / count, rounded up, without a quotient; of 1 to 2^25 keys.
  __device__ int share(int keys) const {
    return static_cast<int>(static_cast<std::uint64_t>(keys) * inverse >> 32) + 1;
  }
};
/// Keys `begin` .. `end` - 1, counted without those between the sinks and the window, of all that a query sees.
struct split_of_keys {
  int all, each;  ///< keys, and those of a split but for the last of them
  int begin, end;

  __device__ split_of_keys(const seen_keys& seen, int split, const key_splits& splits, int min_keys)
      : all(seen.high + 1 - seen.low - (seen.recent - seen.sinks_end)),
        each(max(splits.share(all), min_keys)),
        begin(seen.low + min(all, split * each)),
        end(seen.low + min(all, (split + 1) * each)) {}
  /// Whether `blocks` splits have all keys.
  __device__ bool fits(int blocks) const { return all <= blocks * each; }
};

/// y from the parts in memory, each of which has `keys` of them but for the last: at most 64. `first`: that of the first
/// head's first part, of `parts` a head.
template <int Heads>
__device__ void join_parts(const part& p, const split_of_keys& of, int keys, int head0, int heads, index first,
                           int parts, const partial_sums* sums, const float* partial) {
  __shared__ float weights[Heads][64];
  const int n = p.width(), lane = static_cast<int>(threadIdx.x) % 32, shared = (of.all + keys - 1) / keys;
  const float scale = p.a.scale();
  for (int h = static_cast<int>(threadIdx.x) / 32; h < heads; h += 4) {
    float2 mine[2];
    float top = no_score, all = 0;
    for (int i = 0; i < 2; ++i) {
      const int part = lane + 32 * i;
      mine[i] = part < shared ? __ldcg(reinterpret_cast<const float2*>(sums + first + h * parts + part))
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
  for (int at = static_cast<int>(threadIdx.x); at < heads * n; at += 128) {
    const int h = at / n, c = at % n;
    const float* from = partial + (first + h * parts) * n + c;
    float x = 0;
#pragma unroll 8
    for (int i = 0; i < shared; ++i) x = fmaf(weights[h][i], __ldcg(from + static_cast<index>(i) * n), x);
    results.of(head0 + h, 0)[c] = x;
  }
}

}  // namespace distil_xlstm::device::detail::flash
