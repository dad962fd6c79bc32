#pragma once

#include <algorithm>
#include <cstdint>

#include <distil_xlstm/device/cuda/cluster.cuh>
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

/// A split's keys and up to `Heads` queries a block. Where they are few, `Cluster` blocks send what they have to the
/// first of them; parts that are left then are joined in memory, by the last block that comes. What does not depend on
/// the length is found before earlier kernels have ended, and no quotient is waited for.
///
/// `counters`: one a sequence, then from `task_counters` on one for the blocks that share queries; all 0 between
/// kernels.
template <int Lanes, int Vectors, int Heads, int Cluster, class Step>
__global__ void __launch_bounds__(128, Heads* Vectors == 4 ? 4 : 3)
    decode_kernel(earlier_kernels earlier, attention_arguments<float> a, key_splits splits, bool vectorised,
                  Step step, partial_sums* sums, float* partial, unsigned* counters) {
  using tile = decode_tile<Lanes, Vectors, Heads>;
  constexpr int teams = tile::teams, at_once = tile::at_once, padded = tile::padded,
                each_lane = tile::each_lane;
  __shared__ partial_sums team_sums[Heads][teams];
  __shared__ __align__(16) float weights[teams][tile::count];
  __shared__ float keeps[teams][Heads];
  __shared__ __align__(16) float team_out[teams][Heads][padded];
  // What the blocks of a cluster send to the first of them.
  constexpr int sends = Cluster > 1 ? Cluster : 1, sent = Cluster > 1 ? Heads * padded : 2;
  __shared__ partial_sums block_sums[Heads][sends];
  __shared__ __align__(16) float block_out[sends][sent];
  __shared__ std::uint64_t all_sent;
  const int thread = static_cast<int>(threadIdx.x), lane = tile::lane(), team = tile::team();
  const int group = static_cast<int>(a.shape.group()), shares = (group + Heads - 1) / Heads;
  const int split = static_cast<int>(blockIdx.x) % splits.count,
            task = static_cast<int>(blockIdx.x) / splits.count;
  part p(a, task / shares, 0);
  const int head0 = task % shares * Heads, heads = min(Heads, group - head0), n = p.width();
  const bool aligned = Step::rotates || vectorised;
  const float scale = a.scale();
  const int stride = static_cast<int>(a.shape.kv_heads) * n;
  const float *keys = a.past.keys.of(p.b) + p.kv * n, *values = a.past.values.of(p.b) + p.kv * n;
  const float *own_keys = p.now(a.k)(0), *own_values = p.now(a.v)(0), *places[Vectors][Heads + 1];
  float* result = p.queries(a.y).of(head0, 0);
#pragma unroll
  for (int i = 0; i < Vectors; ++i)
#pragma unroll
    for (int h = 0; h <= Heads; ++h) {
      const float* head = h < Heads ? p.queries(a.q).of(head0 + min(h, heads - 1), 0) : own_keys;
      places[i][h] = step.place(head, tile::column(i), n);
      hold_global(places[i][h]);
    }
  const typename Step::angle_places angle_places[] = {{step, p.b, tile::column(0), n},
                                                      {step, p.b, tile::column(Vectors - 1), n}};
  hold(keys), hold(values), hold_global(own_values), hold_global(result);
  const arrival sums_arrive{shared_address(&all_sent)};
  if constexpr (Cluster > 1) {
    if (thread == 0) sums_arrive.begin();
    cluster_arrive();
  }
  earlier.wait([&] {
    if (vectorised && head0 == 0) prefetch_split<tile::min_keys>(p, split, splits.count);
  });
  // Queries, the token's own key, and its value.
  typename Step::four raw[Vectors][Heads + 1];
  typename Step::angles angles[Vectors];
  typename tile::of_heads q, out = {};
  typename tile::of_token own_key, own_value;
  const float length = a.past.length.data ? *a.past.length.of(p.b) : 0;
  const bool begins = a.seq.begins(p.b, 0);
#pragma unroll
  for (int i = 0; i < Vectors; ++i) {
    angles[i] = angle_places[i].load();
#pragma unroll
    for (int h = 0; h <= Heads; ++h) raw[i][h] = step.load(places[i][h], tile::column(i), n, aligned);
    own_value[i] = load4(own_values, tile::column(i), n, aligned);
  }
  p.past = static_cast<int>(length);
  const int low = begins ? p.past : 0;
  const seen_keys seen = Step::rotates ? seen_keys{low, low, low, p.past} : p.seen(low, p.past);
  const split_of_keys of(seen, split, splits, tile::min_keys);
  const auto slot = [&](int of_key) { return step.slot(a.shape, of_key); };
  typename tile::of_keys k, v;
  const auto load = [&](int j0) {
    tile::load(k, keys, stride, slot, seen, j0, of.end, n, aligned);
    tile::load(v, values, stride, slot, seen, j0, of.end, n, aligned);
  };
  load(of.begin);
#pragma unroll
  for (int i = 0; i < Vectors; ++i) {
#pragma unroll
    for (int h = 0; h < Heads; ++h) q[h][i] = step.rotated(raw[i][h], angles[i], tile::column(i), n);
    own_key[i] = step.rotated(raw[i][Heads], angles[i], tile::column(i), n);
  }
  const int first_score = lane / tile::alike * each_lane, my_head = first_score / at_once;
  float max_score = no_score, sum = 0;  // of this lane's head; of this lane's keys
  for (int j0 = of.begin; j0 < of.end;) {
    tile::take_own(k, own_key, seen, j0), tile::take_own(v, own_value, seen, j0);
    float s[tile::count];
    tile::multiply(s, q, k, heads);
    scatter_sums<Lanes>(s, lane);
    float top = max_score;
#pragma unroll
    for (int i = 0; i < each_lane; ++i) {
      if (j0 + (first_score + i) % at_once * teams + team >= of.end) s[i] = -INFINITY;
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
    j0 += teams * at_once;
    if (j0 < of.end) load(j0);
  }
  sum = warp_sum<tile::lanes_a_head, tile::alike>(sum);
  if (lane % tile::lanes_a_head == 0) team_sums[my_head][team] = {max_score, sum};
  // A document that begins takes the memory's first place.
  const int place = begins ? 0 : p.past;
  if constexpr (Step::rotates)
    if (split == splits.count - 1 && head0 == 0 && team == 0) {
      const index at = p.kv * n + static_cast<index>(place) * stride;
#pragma unroll
      for (int i = 0; i < Vectors; ++i) {
        const int c = tile::column(i);
        if (c >= n) continue;
        store4_global(step.keys.of(p.b) + at + c, own_key[i]);
        store4_global(step.values.of(p.b) + at + c, own_value[i]);
      }
    }
  __syncthreads();
  // The block has used the position, so that no write can change what it read: behind the last of the sequence's it may
  // move.
  bool moves = false;
  if constexpr (Step::rotates)
    if (thread == 0)
      moves = counts_last(counters + p.b, static_cast<int>(a.shape.kv_heads) * shares * splits.count);

  const bool alone = of.fits(1), far = !of.fits(Cluster);
  const int rank = split % Cluster, parts = splits.count / Cluster;
  const index first_part = (static_cast<index>(p.b) * a.shape.heads + p.kv * group + head0) * parts,
              my_part = first_part + split / Cluster;
  const bool near = Cluster > 1 && !alone && (split - rank) * of.each < of.all;
  if constexpr (Cluster > 1) cluster_wait();  // the others are there
  // Two neighbours' sums of a block or of a cluster, where they belong.
  const auto put = [&](bool whole, int at, float2 x) {
    const int h = at / padded, c = at % padded;
    float* to = whole ? result + h * n : partial + (my_part + h * parts) * n;
    if (h < heads && c < n) to[c] = x.x;
    if (h < heads && c + 1 < n) to[c + 1] = x.y;
  };
  const auto put_sums = [&](int h, const partial_sums& all) {
    if (h < heads) sums[my_part + h * parts] = all;
  };
  if (near || of.begin < of.end) {
    part_weights<teams, Heads> by(team_sums, scale);
    const std::uint32_t to = address_in(0, sums_arrive.address);
    if (near)
      by.each_head([&](int h, const partial_sums& all) {
        send(address_in(0, shared_address(&block_sums[h][rank])), to, all.max, all.sum);
      });
    else if (far)
      by.each_head(put_sums);
    if (alone) by.normalise();
#pragma unroll
    for (int h = 0; h < Heads; ++h) {
      const float mine = by.of(h, team);
#pragma unroll
      for (int i = 0; i < Vectors; ++i) {
        const float4 o = out[h][i];
        store4(team_out[team][h] + tile::column(i), {o.x * mine, o.y * mine, o.z * mine, o.w * mine});
      }
    }
    __syncthreads();
#pragma unroll
    for (int at = 2 * thread; at < Heads * padded; at += 256) {
      float2 x{};
#pragma unroll
      for (int i = 0; i < teams; ++i) {
        const float2 y = load2(team_out[i][0] + at);
        x.x += y.x, x.y += y.y;
      }
      if (near)
        send(address_in(0, shared_address(block_out[rank] + at % sent)), to, x.x, x.y);
      else
        put(alone, at, x);
    }
  }
  if constexpr (Cluster > 1)
    if (near && rank == 0) {
      if (thread == 0) sums_arrive.announce(sizeof block_sums + sizeof block_out);
      sums_arrive.wait(0);
      part_weights<Cluster, Heads> by(block_sums, scale);
      if (far)
        by.each_head(put_sums);
      else
        by.normalise();
#pragma unroll
      for (int at = 2 * thread; at < Heads * padded; at += 256) {
        float2 x{};
#pragma unroll
        for (int i = 0; i < Cluster; ++i) {
          const float weight = by.of(at / padded, i);
          const float2 y = load2(block_out[i] + at);
          x.x = fmaf(weight, y.x, x.x), x.y = fmaf(weight, y.y, x.y);
        }
        put(!far, at, x);
      }
    }
  if (far && rank == 0 && comes_last(counters + task_counters + task, parts))
    join_parts<Heads>(p, of, Cluster * of.each, head0, heads, first_part, parts, sums, partial);
  if constexpr (Step::rotates)
    if (moves) *step.position.of(p.b) = static_cast<float>(place + 1);
}

template <int Lanes, int Vectors, int Heads, class Step>
void decode_heads(cuda_base& device, const attention_arguments<float>& a, const Step& step) {
  if constexpr (Step::rotates)
    require(a.seq.batch <= task_counters, "cuda: attention rotates queries of up to ", task_counters,
            " sequences in a step, not of ", a.seq.batch);
  using tile = decode_tile<Lanes, Vectors, Heads>;
  const index shares = blocks_for(a.shape.group(), Heads), tasks = a.seq.batch * a.shape.kv_heads * shares;
  // Enough blocks to fill the card, whatever the lengths, which the host does not know.
  const index wanted = blocks_for(index{6} * device.multiprocessors(), tasks);
  index worth = a.shape.window > 0 ? (a.shape.window + a.shape.sinks) / tile::min_keys : 64;
  if constexpr (Step::rotates) worth = blocks_for(step.capacity, tile::min_keys);
  if (task_counters + tasks > device.counter_count || !a.past.length.data) worth = 1;
  index splits = std::clamp<index>(std::min(wanted, worth), 1, 64);
  const auto run = [&]<int Cluster>() {
    const index parts = splits > Cluster ? splits / Cluster : 0, results = a.seq.batch * a.shape.heads * parts;
    auto sums = device.template scratch<partial_sums>(results);
    auto partial = device.template scratch<float>(results * a.shape.width);
    launch(device, "attention of single tokens", {static_cast<unsigned>(tasks * splits), 128, 0, Cluster},
           decode_kernel<Lanes, Vectors, Heads, Cluster, Step>, a, key_splits(static_cast<int>(splits)),
           is_vectorised(a), step, sums.data(), partial.data(), device.counters());
  };
  // Where all blocks run at once, and clusters find room.
  const index clusters =
      std::min(blocks_for(splits, tile::cluster), device.multiprocessors() / (tasks * tile::cluster));
  if (splits == 1 || clusters == 0 || !runs_code_of_90(device)) return run.template operator()<1>();
  splits = clusters * tile::cluster;
  run.template operator()<tile::cluster>();
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
