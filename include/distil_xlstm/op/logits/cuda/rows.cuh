#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include <distil_xlstm/device/cuda/async_copy.cuh>
#include <distil_xlstm/device/cuda/cluster.cuh>
#include <distil_xlstm/device/cuda/fast_scalar.cuh>
#include <distil_xlstm/device/cuda/launch.cuh>
#include <distil_xlstm/device/cuda/vector_access.cuh>

// Rows of logits, and how threads share one: a block that reads it from the cache again, or a cluster that keeps it in
// its shared memory.
namespace distil_xlstm::device::detail {

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

}  // namespace distil_xlstm::device::detail
