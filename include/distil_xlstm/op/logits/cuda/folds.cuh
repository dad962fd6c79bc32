#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include <distil_xlstm/device/cuda/reduce.cuh>
#include <distil_xlstm/math/kth_largest.hpp>
#include <distil_xlstm/math/log_sum_exp.hpp>
#include <distil_xlstm/op/logits/cuda/rows.cuh>

// What a row of logits is folded to: sums of softmaxes where those are all that the terms ask for, any folds else, and
// the k-th largest of the teacher's.
namespace distil_xlstm::device::detail {

/// Whether a row is folded by `softmax_row_sums`, and its gradient is a sum of softmaxes.
template <class List, class L>
inline constexpr bool sums_softmaxes =
    std::conjunction_v<std::bool_constant<List::sums_softmaxes>, std::is_same<L, bf16>,
                       std::is_same<typename List::scalar, float>>;

/// exp(x / T) = 2^(x / T log2 e)
inline constexpr float log2_e = 1.44269504f;

/// @{ The log-sum-exp that is in a fold.
template <class T>
__device__ math::log_sum_exp<T>& softmax_of(math::log_sum_exp<T>& fold) {
  return fold;
}
template <class T>
__device__ math::log_sum_exp<T>& softmax_of(math::softmax_mean<T>& fold) {
  return fold.x;
}
/// @}

/// The larger of each of two pairs of bfloat16, NaN where one is.
__device__ inline std::uint32_t larger_pair(std::uint32_t a, std::uint32_t b) {
  std::uint32_t y;
  asm("max.NaN.bf16x2 %0, %1, %2;" : "=r"(y) : "r"(a), "r"(b));
  return y;
}

/// Eight logits of a row, none below math::logit_floor, which no product with a scale rounds: exp(floor - floor) is 1.
struct eight_logits {
  static constexpr float floor = static_cast<float>(math::logit_floor);
  std::uint32_t pairs[4], largest;  ///< that of the four first, and that of the four second

  __device__ explicit eight_logits(uint4 words) : pairs{words.x, words.y, words.z, words.w} {
    for (std::uint32_t& pair : pairs) pair = larger_pair(pair, 0xce80ce80u);  // the floor, twice
    largest = larger_pair(larger_pair(pairs[0], pairs[1]), larger_pair(pairs[2], pairs[3]));
  }
  /// Logit i, where the compiler knows i.
  __device__ float operator[](int i) const { return i % 2 ? bf16_high(pairs[i / 2]) : bf16_low(pairs[i / 2]); }
};

/// What a thread sums of a row's first pass where all folds are softmaxes of logits in bfloat16. A column costs an
/// exponential a fold, whose temperature is a factor within it, and no comparison but of its pair: exponentials are of
/// logits less a reference, not the largest so far but one that is seldom moved, since no logit may be far above it.
template <class List>
class softmax_row_sums {
  static constexpr std::size_t folds = List::first_folds;
  static constexpr float far = 32;  ///< of x / T: twice that, rounded, times a vocabulary is no large float yet
  float reference_[2];              ///< the student's and the teacher's
  std::uint32_t limit_[2];          ///< for which they stay: pairs of equal numbers
  float sum_[folds] = {};           ///< of exp((x - reference) / T)
  float dot_[folds] = {};           ///< of the same times the teacher's logit less the student's

 public:
  __device__ softmax_row_sums() {
    for (int side = 0; side < 2; ++side)
      reference_[side] = eight_logits::floor, limit_[side] = 0xff80ff80u;  // -infinity, twice
  }
  /// Takes a pack of each side's.
  __device__ void take(const List& terms, uint4 student, uint4 teacher) {
    const eight_logits s(student), t(teacher);
    if (larger_pair(s.largest, limit_[0]) != limit_[0] || larger_pair(t.largest, limit_[1]) != limit_[1])
      move<false>(terms, s.largest), move<true>(terms, t.largest);
    terms.each_softmax([&](auto j, auto teaches, float inverse) {
      constexpr std::size_t J = decltype(j)::value;
      constexpr bool is_teacher = decltype(teaches)::value;
      const float scale = inverse * log2_e, shift = -scale * reference_[is_teacher];
      float e[8];
#pragma unroll
      for (int i = 0; i < 8; ++i) e[i] = exp2_approx(fmaf(is_teacher ? t[i] : s[i], scale, shift));
      sum_[J] += ((e[0] + e[1]) + (e[2] + e[3])) + ((e[4] + e[5]) + (e[6] + e[7]));
      if constexpr (is_teacher)
#pragma unroll
        for (int i = 0; i < 8; ++i) dot_[J] = fmaf(e[i], t[i] - s[i], dot_[J]);
    });
  }
  /// A column that is in no whole pack: beside seven that have no part in the sums.
  __device__ void take(const List& terms, bf16 student, bf16 teacher) {
    constexpr std::uint32_t none = 0xff80u << 16, two = none | 0xff80u;  // -infinity
    take(terms, uint4{none | student.bits, two, two, two}, uint4{none | teacher.bits, two, two, two});
  }
  /// The sums of all lanes of the warp, in each.
  __device__ void join_lanes(const List& terms) {
    float before[2];
    for (int side = 0; side < 2; ++side) {
      before[side] = reference_[side];
      reference_[side] = warp_max(before[side]);
    }
    terms.each_softmax([&](auto j, auto teaches, float inverse) {
      constexpr std::size_t J = decltype(j)::value;
      constexpr bool is_teacher = decltype(teaches)::value;
      const float keep = exp2_approx((before[is_teacher] - reference_[is_teacher]) * (inverse * log2_e));
      sum_[J] = warp_sum(sum_[J] * keep);
      if constexpr (is_teacher) dot_[J] = warp_sum(dot_[J] * keep);
    });
  }
  /// Writes the sums to the folds that they are of.
  template <class Acc>
  __device__ void give(const List& terms, Acc& folded) const {
    terms.each_softmax([&](auto j, auto teaches, float inverse) {
      constexpr std::size_t J = decltype(j)::value;
      constexpr bool is_teacher = decltype(teaches)::value;
      auto& fold = List::template fold_of<J>(folded);
      auto& x = softmax_of(fold);
      x.max = math::clamp_min(reference_[is_teacher] * inverse), x.sum = sum_[J];
      if constexpr (is_teacher) fold.dot = dot_[J] * inverse;
    });
  }

 private:
  /// Moves a side's reference up to the larger of a pair.
  template <bool Teacher>
  __device__ void move(const List& terms, std::uint32_t pair) {
    using V = logit_scalar<float, bf16>;
    const float before = reference_[Teacher];
    const float now = math::not_below(math::not_below(V(bf16_low(pair)), V(bf16_high(pair))), V(before)).x;
    float steepest = 0;
    terms.each_softmax([&](auto j, auto teaches, float inverse) {
      constexpr std::size_t J = decltype(j)::value;
      if (decltype(teaches)::value != Teacher) return;
      const float keep = exp2_approx((before - now) * (inverse * log2_e));
      sum_[J] *= keep, dot_[J] *= keep, steepest = fmaxf(steepest, inverse);
    });
    const float limit = now + far * reciprocal_approx(steepest);
    reference_[Teacher] = now, limit_[Teacher] = pack_bf16(limit, limit);
  }
};

/// The first pass of `fold_row` by softmax_row_sums.
template <int Threads, class List, class Row>
__device__ auto fold_softmaxes(const List& terms, const Row& row, unsigned char* memory) {
  using acc = typename List::template acc<float>;
  using sums = softmax_row_sums<List>;
  const int thread = static_cast<int>(threadIdx.x);
  sums mine;
  row.visit([&](int, const auto& s, const auto& t) { mine.take(terms, s.words, t.words); });
  for (int c = row.packed() + row.thread; c < row.cols; c += row.threads)
    mine.take(terms, row.student[c], row.teacher[c]);

  constexpr int warps = Threads / 32;
  static_assert(sizeof(sums) * warps <= sizeof(acc) * Threads / 2, "`memory` holds them");
  sums* of_warps = reinterpret_cast<sums*>(memory);
  mine.join_lanes(terms);
  if constexpr (!Row::whole) __syncthreads();  // the row before is read by all
  if (thread % 32 == 0) of_warps[thread / 32] = mine;
  __syncthreads();
  acc* all = reinterpret_cast<acc*>(memory);
  if (thread < 32) {
    mine = thread < warps ? of_warps[thread] : sums();
    mine.join_lanes(terms);
    __syncwarp();
    acc of_block = terms.template init<float>();
    mine.give(terms, of_block);
    if (thread == 0) *all = of_block;
  }
  row.template merge_blocks<0>(all, [](acc& into, const acc& from) { List::template merge<0>(into, from); });
  __syncthreads();
  return *all;
}

/// The threads that share a row fold it, a pack at a time; all of them have the result. `before` is what the row's
/// earlier passes found, `memory` has room for half a block's accumulators.
template <int Threads, int Pass, class List, class Row>
__device__ auto fold_row(const List& terms, const typename List::results& before, const Row& row,
                         unsigned char* memory) {
  using T = typename List::scalar;
  using V = logit_scalar<T, typename Row::logit>;
  using acc = typename List::template acc<T, Pass>;
  constexpr int each = Row::each;
  acc* all = reinterpret_cast<acc*>(memory);
  const int thread = static_cast<int>(threadIdx.x);

  auto folded = terms.template init<V, Pass>();
  row.visit([&](int, const auto& s, const auto& t) {
    V from_student[each], from_teacher[each];
#pragma unroll
    for (int i = 0; i < each; ++i)
      from_student[i] = V(s.template at<T>(i)), from_teacher[i] = V(t.template at<T>(i));
    terms.template visit<Pass>(folded, before, from_student, from_teacher);
  });
  for (int c = row.packed() + row.thread; c < row.cols; c += row.threads) {
    const V from_student[1] = {V(widen<T>(row.student[c]))}, from_teacher[1] = {V(widen<T>(row.teacher[c]))};
    terms.template visit<Pass>(folded, before, from_student, from_teacher);
  }

  static_assert(sizeof(acc) == sizeof(folded), "an accumulator holds nothing but V's");
  acc mine;
  memcpy(&mine, &folded, sizeof mine);
  const auto merge = [](acc& into, const acc& from) { List::template merge<Pass>(into, from); };
  if constexpr (Pass > 0 || !Row::whole) __syncthreads();  // the pass, or the row, before is read by all
  if (thread >= Threads / 2) all[thread - Threads / 2] = mine;
  for (int half = Threads / 2; half > 0; half /= 2) {
    if (half >= 32)
      __syncthreads();
    else if (thread < 32)
      __syncwarp();
    if (thread < half) {
      merge(mine, all[half == Threads / 2 ? thread : thread + half]);
      all[thread] = mine;
    }
  }
  row.template merge_blocks<Pass>(all, merge);
  __syncthreads();
  return all[0];
}

/// The k-th largest of a row of the teacher's logits, which a block's threads count.
template <int Threads, class T, class L>
__device__ T select_kth(index k, const L* teacher, int cols) {
  using search_type = math::kth_largest<T>;
  __shared__ unsigned counts[search_type::buckets];
  search_type search(k);
  while (!search.done()) {
    for (int b = static_cast<int>(threadIdx.x); b < search_type::buckets; b += Threads) counts[b] = 0;
    __syncthreads();
    for (int c = static_cast<int>(threadIdx.x); c < cols; c += Threads)
      if (const int b = search.bucket(widen<T>(teacher[c])); b >= 0) atomicAdd(counts + b, 1u);
    __syncthreads();
    search.advance(counts);
    __syncthreads();
  }
  return search.value();
}

}  // namespace distil_xlstm::device::detail
