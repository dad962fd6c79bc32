#pragma once

#include <algorithm>
#include <cstdint>

#include <distil_xlstm/device/cuda/cluster.cuh>
#include <distil_xlstm/op/attention/cuda/step_parts.cuh>

// Attention of single tokens: keys and values are read once, in order, by many blocks a sequence.
namespace distil_xlstm::device::detail::flash {

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
