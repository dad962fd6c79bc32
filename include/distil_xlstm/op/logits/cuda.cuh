#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <optional>
#include <type_traits>

#include <distil_xlstm/device/cuda/async_copy.cuh>
#include <distil_xlstm/device/cuda/cluster.cuh>
#include <distil_xlstm/device/cuda/fast_scalar.cuh>
#include <distil_xlstm/device/cuda/gemm.cuh>
#include <distil_xlstm/device/cuda/reduce.cuh>
#include <distil_xlstm/device/cuda/vector_access.cuh>
#include <distil_xlstm/math/kth_largest.hpp>
#include <distil_xlstm/op/logits/op.hpp>

namespace distil_xlstm::device {
namespace detail {

/// Words of 32 bits that an A takes.
template <class A>
constexpr int words_of() {
  return static_cast<int>((sizeof(A) + 3) / 4);
}

/// What logits that are stored as L's are computed in.
template <class T, class L>
using logit_scalar = fast_scalar<T, std::is_same_v<L, bf16> ? approximate::softmax : approximate::exponential>;

/// A row of the student's logits beside the teacher's, and which of the threads that share it this one is. Each has
/// some of its packs of 16 bytes, and some of the columns behind the last of them.
template <class L>
struct row_of_logits {
  using logit = L;
  using pack = read_pack<L>;
  static constexpr int each = 16 / static_cast<int>(sizeof(L));
  const L *student, *teacher;
  int cols, thread, threads;

  __device__ int packed() const { return cols / each * each; }  ///< columns in whole packs
  __device__ int first() const { return thread * each; }
  __device__ int step() const { return threads * each; }
};

/// A row that a block reads from memory the first time, then from the cache.
template <int Threads, class L>
struct cached_row : row_of_logits<L> {
  static constexpr int blocks_at_once = 1;  ///< that a multiprocessor shall have room for
  static constexpr bool whole = true;       ///< a block has all of it
  using typename row_of_logits<L>::pack;

  struct exchange {};  ///< of blocks that share a row
  __device__ cached_row(const L* student, const L* teacher, int cols, unsigned char*, exchange&, int)
      : row_of_logits<L>{student, teacher, cols, static_cast<int>(threadIdx.x), Threads} {}
  __device__ static int number() { return static_cast<int>(blockIdx.x); }
  __device__ static void meet(exchange&, int, int) {}
  __device__ static void part() {}
  __device__ void fetch() const {}
  /// f(column, the student's pack, the teacher's) of this thread's packs.
  template <class F>
  __device__ void visit(const F& f) const {
    int c = this->first();
    if (c >= this->packed()) return;
    pack s = pack::first(this->student + c), t = pack::first(this->teacher + c), next_s, next_t;
    for (;;) {
      const int next = c + this->step();
      if (next < this->packed()) {
        next_s = pack::first(this->student + next);
        next_t = pack::first(this->teacher + next);
      }
      f(c, s, t);
      if (next >= this->packed()) break;
      c = next, s = next_s, t = next_t;
    }
  }
  /// The same for the last time.
  template <class F>
  __device__ void visit_last(int, const F& f) const {
    for (int c = this->first(); c < this->packed(); c += this->step())
      f(c, pack::last(this->student + c), pack::last(this->teacher + c));
  }
  template <int Pass, class A, class Merge>
  __device__ void merge_blocks(A*, const Merge&) const {}
};

/// A row that the blocks of a cluster keep in their shared memory, a part each, so small that a multiprocessor has
/// room for two: one works while the other waits. A thread reads what it has copied itself, so a pack of the next
/// row can take a pack's place once that was read for the last time. `Sides` is 1 where the teacher's logits are
/// not asked for.
template <int Threads, int Sides, class L>
struct kept_row : row_of_logits<L> {
  static constexpr int blocks_at_once = 2;
  static constexpr bool whole = false;
  static constexpr int most_blocks = 8;          ///< of a cluster
  static constexpr int most_packs = 12 / Sides;  ///< that a thread has of each side
  using typename row_of_logits<L>::pack;
  /// Two barriers in turn, since blocks may be one exchange apart; each is told how many bytes come next before any
  /// can.
  struct exchange {
    std::uint64_t arrivals[2];
  };
  uint4* memory;  ///< this thread's first pack; its next are Threads further each
  exchange& come;
  int exchanges;  ///< before this row

  /// How many blocks a row takes.
  static constexpr int blocks(index cols) {
    const index packs = cols / row_of_logits<L>::each;
    return static_cast<int>(std::max<index>(2, blocks_for(packs, Threads * most_packs)));
  }
  /// Bytes of shared memory that a block keeps its part in.
  static constexpr index bytes(index cols) {
    const index packs = cols / row_of_logits<L>::each;
    return blocks_for(packs, Threads * blocks(cols)) * Sides * Threads * 16;
  }

  __device__ kept_row(const L* student, const L* teacher, int cols, unsigned char* shared, exchange& between,
                      int exchanged)
      : row_of_logits<L>{student, teacher, cols, cluster_rank() * Threads + static_cast<int>(threadIdx.x),
                         cluster_size() * Threads},
        memory(reinterpret_cast<uint4*>(shared) + threadIdx.x),
        come(between),
        exchanges(exchanged) {}
  __device__ static int number() { return static_cast<int>(blockIdx.x) / cluster_size(); }
  /// Before the first exchange. `even_words`, `odd_words`: what a block sends in exchanges of even and of odd number.
  __device__ static void meet(exchange& come, int even_words, int odd_words) {
    if (threadIdx.x == 0)
      for (int turn = 0; turn < 2; ++turn) {
        const arrival a{shared_address(&come.arrivals[turn])};
        a.begin(), a.announce(bytes_of_all(turn == 0 ? even_words : odd_words));
      }
    __syncwarp();
    cluster_sync();
  }
  /// No block ends before the others have what it sent.
  __device__ static void part() {
    __syncwarp();
    cluster_arrive();
    cluster_wait();
  }
  /// Begins to copy the row.
  __device__ void fetch() const {
    uint4* to = memory;
    for (int c = this->first(); c < this->packed(); c += this->step(), to += Sides * Threads)
      copy(to, this->student + c, this->teacher + c);
  }
  template <class F>
  __device__ void visit(const F& f) const {
    const uint4* from = memory;
    int later = (this->packed() - this->first() - 1) / this->step();  // packs behind this one
    for (int c = this->first(); c < this->packed(); c += this->step(), from += Sides * Threads) {
      wait_for_copies_but<most_packs - 1>(later--);
      f(c, pack(from[0]), pack(from[(Sides - 1) * Threads]));
    }
  }
  /// The same for the last time; begins to copy the row that is `ahead` elements further where that is not 0.
  template <class F>
  __device__ void visit_last(int ahead, const F& f) const {
    uint4* from = memory;
    const L *next_student = this->student + ahead, *next_teacher = this->teacher + ahead;
    hold(next_student), hold(next_teacher);
    for (int c = this->first(); c < this->packed(); c += this->step(), from += Sides * Threads) {
      f(c, pack(from[0]), pack(from[(Sides - 1) * Threads]));
      if (ahead != 0) copy(from, next_student + c, next_teacher + c);
    }
  }
  /// The blocks' first threads merge what each has written to `own`, in the order of the blocks. Once a pass.
  template <int Pass, class A, class Merge>
  __device__ void merge_blocks(A* own, const Merge& merge) const {
    constexpr int words = words_of<A>();
    static_assert(words <= 32, "a warp sends them");
    __shared__ float all_parts[2][most_blocks][words];
    const int number = exchanges + Pass;
    auto& parts = all_parts[number % 2];
    const arrival came{shared_address(&come.arrivals[number % 2])};
    __syncwarp();
    if (const int i = static_cast<int>(threadIdx.x); i < words)
      for (int block = 0; block < cluster_size(); ++block)
        send(address_in(block, shared_address(parts[cluster_rank()] + i)), address_in(block, came.address),
             __float_as_uint(reinterpret_cast<const float*>(own)[i]));
    __syncwarp();
    if (threadIdx.x > 0) return;
    came.wait(number / 2);
    came.announce(bytes_of_all(words));
    const auto of = [&](int block) -> const A& { return *reinterpret_cast<const A*>(parts[block]); };
    A all = of(0);
    for (int block = 1; block < cluster_size(); ++block) merge(all, of(block));
    *own = all;
  }

 private:
  /// Of what the blocks of a cluster send, `words` each.
  __device__ static int bytes_of_all(int words) {
    return cluster_size() * words * static_cast<int>(sizeof(std::uint32_t));
  }
  /// Begins to copy a pack of both sides.
  __device__ static void copy(uint4* to, const L* from_student, const L* from_teacher) {
    copy_async_16(to, from_student);
    if constexpr (Sides == 2) copy_async_16(to + Threads, from_teacher);
    commit_copies();
  }
};

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

/// The gradient of a row of bfloat16 logits as a sum of softmaxes, each a product with one exponential.
template <class List>
struct softmax_row_gradient {
  static constexpr std::size_t folds = List::first_folds;
  float weight[folds], scale[folds], shift[folds];

  __device__ softmax_row_gradient(const List& terms, typename List::results found, float factor) {
    terms.softmax_factors(weight);
    terms.each_softmax([&](auto j, auto, float inverse) {
      constexpr std::size_t J = decltype(j)::value;
      const auto& x = softmax_of(List::template fold_of<J>(found));
      scale[J] = inverse * log2_e, shift[J] = -x.max * log2_e;
      weight[J] *= factor * reciprocal_approx(x.sum);
    });
  }
  /// Of eight columns.
  template <class Pack>
  __device__ void operator()(float (&g)[8], const List& terms, const Pack& student, const Pack& teacher) const {
#pragma unroll
    for (int i = 0; i < 8; ++i) g[i] = 0;
    terms.each_softmax([&](auto j, auto teaches, float) {
      constexpr std::size_t J = decltype(j)::value;
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const float x =
            decltype(teaches)::value ? teacher.template at<float>(i) : student.template at<float>(i);
        g[i] = fmaf(weight[J], exp2_approx(fmaf(x, scale[J], shift[J])), g[i]);
      }
    });
  }
};

/// Writes the gradient of a row whose folds were `found` and whose target is column `at`, and begins to copy the row
/// that is `ahead` elements further, where that is not 0.
template <class List, class Row, class Target, class G>
__device__ void write_gradient(const List& terms, const typename List::results& found, const Row& row,
                               G* gradient, int at, const Target& at_target, typename List::scalar factor,
                               int ahead) {
  using T = typename List::scalar;
  using V = logit_scalar<T, typename Row::logit>;
  constexpr int each = Row::each;
  const T more = terms.target_grad(found, at_target, factor);
  if constexpr (sums_softmaxes<List, typename Row::logit>) {
    const softmax_row_gradient<List> sum(terms, found, factor);
    G* to = gradient;
    hold(to);
    row.visit_last(ahead, [&](int c, const auto& s, const auto& t) {
      float g[8];
      sum(g, terms, s, t);
      if (static_cast<unsigned>(at - c) < 8) {
#pragma unroll
        for (int i = 0; i < 8; ++i) g[i] += c + i == at ? more : 0.0f;
      }
      store_eight_global(to + c, g);
    });
  } else {
    row.visit_last(ahead, [&](int c, const auto& s, const auto& t) {
      V from_student[each], from_teacher[each], g[each];
#pragma unroll
      for (int i = 0; i < each; ++i)
        from_student[i] = V(s.template at<T>(i)), from_teacher[i] = V(t.template at<T>(i));
      terms.grad(g, found, at_target, from_student, from_teacher, factor);
      if (static_cast<unsigned>(at - c) < each) {
#pragma unroll
        for (int i = 0; i < each; ++i) g[i].x += c + i == at ? more : T(0);
      }
      if constexpr (std::is_same_v<G, bf16> && std::is_same_v<T, float> && each == 8) {
        store_eight(gradient + c, {g[0].x, g[1].x, g[2].x, g[3].x, g[4].x, g[5].x, g[6].x, g[7].x});
      } else {
        stored<G, each> out;
#pragma unroll
        for (int i = 0; i < each; i += 2) narrow(g[i].x, g[i + 1].x, out.s + i);
        *reinterpret_cast<stored<G, each>*>(gradient + c) = out;
      }
    });
  }
  for (int c = row.packed() + row.thread; c < row.cols; c += row.threads) {
    const T g =
        terms.grad(found, at_target, V(widen<T>(row.student[c])), V(widen<T>(row.teacher[c])), factor).x;
    gradient[c] = G(c == at ? g + more : g);
  }
}

/// `each` rows, one after the other (1 where a `Row` is whole): finds the teacher's largest logits where a term asks
/// for them, folds the row once or twice, reports it, and writes its gradient, which may take the student's place.
/// `gradient` may be null. The first `kept` bytes of the dynamic shared memory are the row's, the others are for
/// folding.
template <int Threads, class Row, class Rows, class L, class G>
__global__ void __launch_bounds__(Threads, Row::blocks_at_once)
    head_rows_kernel(Rows rows, int count, int each, const L* student, const L* teacher, index stride,
                     G* gradient, index gradient_stride, int cols, int kept, bool second_pass) {
  using T = typename Rows::scalar;
  using list = typename Rows::list;
  using target = typename Rows::target;
  extern __shared__ __align__(16) unsigned char memory[];
  __shared__ typename Row::exchange between;
  __shared__ alignas(target) unsigned char target_memory[2][sizeof(target)];  // by turns: one may still be read

  if constexpr (!Row::whole && !has_clusters) return;
  const auto step_terms = rows.terms.at_hand();
  const list& terms = step_terms();
  const int begin = Row::number() * each;
  const int end = begin + each < count ? begin + each : count;
  const int passes = list::two_passes && second_pass ? 2 : 1;
  // Rows are made where they are used: of a function that gives one, nvcc 13.0 takes the teacher's memory for shared.
  const Row any(student, teacher, cols, memory, between, 0);
  // The first row from r on that takes part; the gradient of those before it is 0.
  const auto next_from = [&](int r) {
    for (; r < end && !rows.takes(r); ++r) {
      if (any.thread == 0) rows.skip(r);
      if (gradient)
        for (int c = any.thread; c < cols; c += any.threads) gradient[index{r} * gradient_stride + c] = G(0.f);
    }
    return r;
  };

  int r = next_from(begin);
  if (r < end) Row(student + r * stride, teacher + r * stride, cols, memory, between, 0).fetch();
  constexpr int words[2] = {words_of<typename list::template acc<T, 0>>(),
                            words_of<typename list::template acc<T, 1>>()};
  Row::meet(between, words[0], words[passes - 1]);
  int at = r < end ? rows.targets[r] : 0;
  for (int i = 0; r < end; ++i) {
    const Row row(student + r * stride, teacher + r * stride, cols, memory, between, i * passes);
    target& shared_target = *reinterpret_cast<target*>(target_memory[i % 2]);
    if (threadIdx.x == 0) shared_target = target{widen<T>(row.student[at]), widen<T>(row.teacher[at])};
    const int next = Row::whole ? end : next_from(r + 1);
    const int next_at = next < end ? rows.targets[next] : 0;

    typename list::results found;
    if constexpr (Row::whole)
      terms.select(found, [&](index k) { return select_kth<Threads, T>(k, row.teacher, cols); });
    if constexpr (sums_softmaxes<list, L>)
      terms.template record<0>(found, fold_softmaxes<Threads>(terms, row, memory + kept));
    else
      terms.template record<0>(found, fold_row<Threads, 0>(terms, found, row, memory + kept));
    if constexpr (list::two_passes)
      if (second_pass) terms.template record<1>(found, fold_row<Threads, 1>(terms, found, row, memory + kept));
    const target at_target = shared_target;
    if (row.thread == 0) rows.finish(terms, r, found, at_target);
    if (gradient)
      write_gradient(terms, found, row, gradient + index{r} * gradient_stride, at, at_target,
                     rows.factor * step_terms.factor(), next < end ? (next - r) * static_cast<int>(stride) : 0);
    else if (next < end)
      Row(student + next * stride, teacher + next * stride, cols, memory, between, 0).fetch();
    if constexpr (Row::whole) return;
    r = next, at = next_at;
  }
  Row::part();
}

/// Bytes of the larger of the accumulators that a thread has in the two passes.
template <class Rows>
constexpr std::size_t fold_bytes() {
  using T = typename Rows::scalar;
  constexpr std::size_t first = sizeof(typename Rows::list::template acc<T, 0>),
                        second = sizeof(typename Rows::list::template acc<T, 1>);
  return first > second ? first : second;
}

template <int Threads, class Rows, class L, class G>
void run_head_rows(cuda_base& device, const Rows& rows, index count, const L* student, const L* teacher,
                   index stride, G* gradient, index gradient_stride, index cols) {
  constexpr index folding = Threads / 2 * static_cast<index>(fold_bytes<Rows>());
  static_assert(folding < 160 * 1024, "an accumulator of a row is not as large as this");
  const auto facts = rows.terms.facts();
  const auto run = [&](auto kernel, launch_shape shape, index each, index kept) {
    launch(device, "the head's rows", shape, kernel, rows, static_cast<int>(count), static_cast<int>(each),
           student, teacher, stride, gradient, gradient_stride, static_cast<int>(cols), static_cast<int>(kept),
           facts.second_pass);
  };
  if constexpr (std::is_same_v<L, bf16> && Threads == 1024) {
    constexpr int threads = Threads / 2;
    using row = kept_row<threads, Rows::list::asks_teacher ? 2 : 1, L>;
    const int blocks = row::blocks(cols);
    const index shared = row::bytes(cols) + folding / 2;
    if (runs_code_of_90(device) && shared <= device.shared_bytes() - 4096 && blocks <= row::most_blocks &&
        !facts.selects) {
      // So many rows that a cluster's start costs little, and so few that none works long when others have ended.
      const index clusters = std::max<index>(1, row::blocks_at_once * device.multiprocessors() / blocks);
      const index each = std::min<index>(8, blocks_for(count, clusters));
      return run(head_rows_kernel<threads, row, Rows, L, G>,
                 {static_cast<unsigned>(blocks_for(count, each) * blocks), threads, shared, blocks}, each,
                 row::bytes(cols));
    }
  }
  run(head_rows_kernel<Threads, cached_row<Threads, L>, Rows, L, G>,
      {static_cast<unsigned>(count), Threads, folding}, 1, 0);
}

/// A head in the product's type, where all chunks find it: a float one is rounded here, if no copy of it is held.
template <class P>
class head_weight {
  cuda_operand matrix_;
  scratch_lease<P, cuda_memory> rounded_;
  product_input<P> input_;

  static cuda_operand found(cuda_base& device, cuda_operand m) {
    if (const bf16* copy = product_input<P>::held(device, m)) m.data = copy, m.dtype = dtype::bf16;
    return m;
  }
  const cuda_operand& round(cuda_base& device, index width) {
    if (!product_input<P>::kept(matrix_)) return matrix_;
    convert(device, 1, static_cast<const float*>(matrix_.data), matrix_.stride, 0, rounded_.data(), width, 0,
            matrix_.rows, matrix_.cols);
    matrix_.data = rounded_.data(), matrix_.dtype = dtype::bf16, matrix_.stride = width;
    return matrix_;
  }

 public:
  /// `width` is that of its rows when they are padded.
  template <class Head>
  head_weight(cuda_base& device, const Head& head, index width)
      : matrix_(found(device, product_operand(head))),
        rounded_(device.template scratch<P>(product_input<P>::kept(matrix_) ? matrix_.rows * width : 0)),
        input_(device, round(device, width), 1, 0) {}
  blas_operand<P> plain() const { return {input_.data, input_.stride}; }
  blas_operand<P> transposed() const { return {input_.data, input_.stride, true}; }
};

/// The pass with products of P's and logits stored as L's; their gradient takes their place, or, as P's, a
/// place beside.
template <class P, class L, int Threads, class Rows, class T, class Head>
void head_chunks(cuda_base& device, const Rows& rows, matrix_view<const T> hs, matrix_view<const T> ht,
                 const Head& head, matrix_view<T> dhs, index bytes) {
  constexpr bool in_place = std::is_same_v<P, L>;
  constexpr index unit = 16 / static_cast<index>(std::min(sizeof(L), sizeof(P)));
  const auto padded = [](index n) { return (n + unit - 1) / unit * unit; };
  const auto heads = distil_xlstm::detail::as_head_pair<T>(head);
  const bool teaches = ht.data, one_product = teaches && heads.shared();
  const bool wants_gradient = dhs.data || heads.gradient.data;
  const index n = hs.rows, d = hs.cols, vocabulary = heads.student.rows, sides = teaches ? 2 : 1;
  const index width = padded(d), teacher_width = padded(ht.cols), stride = padded(vocabulary);
  const index row = stride * (sides * static_cast<index>(sizeof(L)) + (in_place ? 0 : index{sizeof(P)}));
  index chunk = std::clamp<index>(bytes / row, 1, n);
  if (chunk > 128) chunk -= chunk % 128;  // whole tiles of a product
  const head_weight<P> weight(device, heads.student, width);
  std::optional<head_weight<P>> teacher_weight;
  if (teaches && !one_product) teacher_weight.emplace(device, heads.teacher, teacher_width);
  auto hidden = device.template scratch<P>(chunk * (width + (teaches ? teacher_width : 0)));
  auto logits = device.template scratch<L>(sides * chunk * stride);
  auto beside = device.template scratch<P>(in_place || !wants_gradient ? 0 : chunk * stride);
  for (index first = 0; first < n; first += chunk) {
    const index m = std::min(chunk, n - first);
    P* hidden_teacher = hidden.data() + m * width;
    const blas_operand<P> student_rows{hidden.data(), width};
    convert(device, 1, hs.row(first), hs.stride, 0, hidden.data(), width, 0, m, d);
    if (teaches) convert(device, 1, ht.row(first), ht.stride, 0, hidden_teacher, teacher_width, 0, m, ht.cols);
    blas_product(device, one_product ? 2 * m : m, vocabulary, d, student_rows, weight.transposed(), 0,
                 logits.data(), stride);
    if (teacher_weight)
      blas_product(device, m, vocabulary, ht.cols, blas_operand<P>{hidden_teacher, teacher_width},
                   teacher_weight->transposed(), 0, logits.data() + m * stride, stride);
    // A teacher that no weight asks for is the student itself: its divergence is 0.
    const L* teacher = logits.data() + (teaches ? m * stride : 0);
    P* gradient = nullptr;
    if (wants_gradient) {
      if constexpr (in_place)
        gradient = logits.data();
      else
        gradient = beside.data();
    }
    run_head_rows<Threads>(device, rows.from(first), m, static_cast<const L*>(logits.data()), teacher, stride,
                           gradient, stride, vocabulary);
    if (dhs.data)
      blas_product(device, m, d, vocabulary, blas_operand<P>{gradient, stride}, weight.plain(), 0,
                   dhs.row(first), dhs.stride);
    if (heads.gradient.data)
      blas_product(device, vocabulary, d, m, blas_operand<P>{gradient, stride, true}, student_rows, 1,
                   heads.gradient.data, heads.gradient.stride);
  }
}

}  // namespace detail

/// A pass of `rows` over the logits of student and teacher, as loss/head.hpp says: a product of both with a shared
/// head, one of the gradient, and one kernel a chunk; a product more for a teacher's own head, and for the
/// gradient of the student's. Where products are in bfloat16, so are the logits and their gradient in memory, as in a network in
/// mixed precision: float logits take half as long again, and lower the hidden gradient's error from 1.74e-3
/// to 1.68e-3.
template <Precision P, class Rows, class T, class Head>
requires(!Head::capped) void head_pass(basic_cuda<P>& device, const Rows& rows, matrix_view<const T> hs,
                                       matrix_view<const T> ht, const Head& head, matrix_view<T> dhs,
                                       index bytes) {
  // Large chunks make good products; what one holds does not stay in the cache, at any size that does.
  if (bytes == 0) bytes = index{768} << 20;
  constexpr std::size_t acc = detail::fold_bytes<Rows>();
  constexpr int threads = acc <= 64 ? 1024 : acc <= 256 ? 512 : 128;
  using stored = product_t<P, T>;
  detail::head_chunks<stored, stored, threads>(device, rows, hs, ht, head, dhs, bytes);
}

}  // namespace distil_xlstm::device
