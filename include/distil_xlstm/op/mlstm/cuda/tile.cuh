#pragma once

#include <cstdint>
#include <type_traits>

#include <distil_xlstm/core/dtype.hpp>
#include <distil_xlstm/core/extent.hpp>
#include <distil_xlstm/device/cuda/async_copy.cuh>
#include <distil_xlstm/device/cuda/vector_access.cuh>

// Products of one block of threads: operands come through shared memory in steps of 32 along the sum, sums stay
// in registers.
namespace distil_xlstm::device::detail {

/// How products are made: operands in float and fused multiply-adds, or in bfloat16 and tensor cores. Sums are
/// float in both.
struct float_products {
  using number = float;
  static constexpr int stages = 2;  ///< steps that lie in shared memory at once
};
struct bf16_products {
  using number = bf16;
  static constexpr int stages = 4;
};

/// a or b by a predicate: where a choice hangs on the lane, a compiler may branch, and shuffles would diverge.
inline __device__ float select(bool choice, float a, float b) {
  float x;
  asm("{.reg .pred p; setp.ne.s32 p, %3, 0; selp.f32 %0, %1, %2, p;}"
      : "=f"(x)
      : "f"(a), "f"(b), "r"(static_cast<int>(choice)));
  return x;
}

/// One step of an operand: where it lies, rows `stride` numbers apart, 16-byte aligned.
template <class Number>
struct step_operand {
  const Number* data;
  int stride;
};

/// An operand whose rows of `Width` lie whole in shared memory, the pieces of 16 bytes of each 128 in an order that
/// hangs on the row, so that the same piece of eight rows takes every bank once.
template <int Width>
struct whole_operand {
  bf16* memory;

  __device__ bf16* at(int row, int column) const {
    const unsigned r = static_cast<unsigned>(row), c = static_cast<unsigned>(column);
    return memory + (r * Width + ((c / 8) ^ (r % 8)) * 8 + c % 8);
  }
  /// Sends for `Rows` and `Columns` from these on, of the operand that begins at `from`, with a block of `Threads`.
  template <int Threads, int Rows, int Columns>
  __device__ void fetch(int row, int column, step_operand<bf16> from) const {
    constexpr int along = Columns / 8, count = Rows * along;
    static_assert(count % Threads == 0);
#pragma unroll
    for (int first = 0; first < count; first += Threads) {
      const int i = first + static_cast<int>(threadIdx.x), r = row + i / along, c = column + i % along * 8;
      copy_async_16(at(r, c), from.data + r * from.stride + c);
    }
  }
};

/// The tile C [32 Down, N] of a block of Down * Across warps, each of which has 32 rows and its share of the columns.
///
/// Operands as they lie in memory: A is [M, K], or [K, M] where `TransposeA`; B is [K, N], or [N, K] where
/// `TransposeB`.
template <class P, int Down, int N, int Across = 2>
struct product_tile {
  using number = typename P::number;
  static constexpr int rows = 32 * Down, width = N, step = 32, threads = 32 * Down * Across;
  static constexpr int columns = N / Across;                             ///< of a warp
  static constexpr int across = columns / 8;                             ///< blocks of eight of them
  static constexpr int padding = 16 / static_cast<int>(sizeof(number));  // rows shift by a bank group
  static constexpr int size_of(int m) {
    const int a = m * (step + padding), b = step * (m + padding);
    return a > b ? a : b;
  }
  static constexpr int b_at = size_of(rows), stage = b_at + size_of(N);
  static_assert(columns % 16 == 0 && N % columns == 0);
  static constexpr int bytes = P::stages * (stage * static_cast<int>(sizeof(number)) + 2 * step * 4);

  float sum[2][across][4];
  float extra[2][4];  ///< A times a vector, beside the product
  number* memory;
  int lane, first_row, first_column;

  __device__ explicit product_tile(void* shared) : memory(static_cast<number*>(shared)) {
    const int warp = static_cast<int>(threadIdx.x) / 32;
    lane = static_cast<int>(threadIdx.x) % 32;
    first_row = 32 * (warp / Across), first_column = columns * (warp % Across);
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int n = 0; n < across; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) sum[m][n][e] = 0;
#pragma unroll
      for (int e = 0; e < 4; ++e) extra[m][e] = 0;
    }
  }

  /// What follows from the lane, places in shared memory above all, is made again from here on: a loop around products
  /// would else keep more of it than there are registers.
  __device__ void forget_lane() { asm volatile("" : "+r"(lane)); }
  /// The thread's number, what follows from which is likewise made where it is wanted.
  __device__ static int opaque_thread() {
    int thread = static_cast<int>(threadIdx.x);
    asm volatile("" : "+r"(thread));
    return thread;
  }

  /// f(row, column, x, y): each pair of neighbours that this thread has.
  template <class F>
  __device__ void pairs(const F& f) {
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
      for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int n = 0; n < across; ++n)
          f(row_of(m, half), column_of(n), sum[m][n][2 * half], sum[m][n][2 * half + 1]);
  }
  /// Every row of the warp times a number of its own.
  template <class F>
  __device__ void scale_rows(const F& factor) {
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float x = factor(row_of(m, half));
#pragma unroll
        for (int n = 0; n < across; ++n) sum[m][n][2 * half] *= x, sum[m][n][2 * half + 1] *= x;
      }
  }
  /// Adds another tile's, every row times a number of its own.
  template <class F>
  __device__ void add_rows(const product_tile& other, const F& factor) {
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float x = factor(row_of(m, half));
#pragma unroll
        for (int n = 0; n < across; ++n)
#pragma unroll
          for (int e = 2 * half; e < 2 * half + 2; ++e) sum[m][n][e] += x * other.sum[m][n][e];
      }
  }
  /// f(of_row, column, x): four neighbours at a time, where of_row = begin(row). Lanes exchange what they have
  /// for it, so that a warp writes 32 bytes or more of each row; all its threads have to call.
  template <class Begin, class F>
  __device__ void float4s(const Begin& begin, const F& f) const {
    const bool odd = lane % 2 != 0;
    const int column = first_column + lane % 2 * 8 + lane % 4 / 2 * 4;
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const auto of_row = begin(row_of(m, half));
#pragma unroll
        for (int n = 0; n < across; n += 2) {
          const float *x = sum[m][n] + 2 * half, *y = sum[m][n + 1] + 2 * half;
          const float first = __shfl_xor_sync(~0u, select(odd, x[0], y[0]), 1);
          const float second = __shfl_xor_sync(~0u, select(odd, x[1], y[1]), 1);
          f(of_row, column + 8 * n,
            float4{select(odd, first, x[0]), select(odd, second, x[1]), select(odd, y[0], first),
                   select(odd, y[1], second)});
        }
      }
  }
  /// The whole tile, rows `stride` apart.
  __device__ void store(number* to, int stride) const {
    if constexpr (std::is_same_v<P, bf16_products>)
      store_bf16(to, stride);
    else
      float4s([&](int row) { return to + static_cast<index>(row) * stride; },
              [](number* row, int column, float4 x) { store4(row + column, x); });
  }
  __device__ int row_of(int m, int half) const { return first_row + 16 * m + 8 * half + lane / 4; }
  __device__ int column_of(int n) const { return first_column + 8 * n + 2 * (lane % 4); }

  /// Row `row_of(m, half)` of A times the vector; the same in the four lanes that share the row.
  __device__ float extra_of(int m, int half) const {
    return __shfl_sync(~0u, extra[m][2 * half] + extra[m][2 * half + 1], lane & ~3);
  }

  /// Every piece of an operand is wanted.
  struct all_pieces {
    __device__ bool operator()(int, int) const { return true; }
  };
  /// Thread `thread` sends for one step, into stage `to`; of A for the pieces that are wanted, as it lies.
  template <bool TransposeA, bool TransposeB, class Wanted = all_pieces>
  __device__ void fetch(int to, step_operand<number> a, step_operand<number> b,
                        int thread = static_cast<int>(threadIdx.x), const Wanted& wanted = {}) const {
    number* at = memory + to * stage;
    copy<TransposeA ? step : rows, TransposeA ? rows : step>(at, a, thread, wanted);
    copy<TransposeB ? N : step, TransposeB ? step : N>(at + b_at, b, thread);
  }
  /// Thread `thread` sends for its pieces of an operand that are wanted(row, column); rows come to lie Columns +
  /// padding apart.
  template <int Rows, int Columns, class Wanted = all_pieces>
  __device__ static void copy(number* to, step_operand<number> from, int thread = static_cast<int>(threadIdx.x),
                              const Wanted& wanted = {}) {
    constexpr int each = padding, along = Columns / each, count = Rows * along;
#pragma unroll
    for (int first = 0; first < count; first += threads) {
      const int i = first + thread;
      if (count % threads == 0 || i < count) {
        const int r = i / along, c = i % along * each;
        if (wanted(r, c))
          copy_async_16_of_line(shared_address(to + r * (Columns + padding) + c),
                                from.data + r * from.stride + c);
      }
    }
  }

  /// 32 numbers of one of a step's two vectors, 16-byte aligned.
  __device__ void fetch_vector(int to, const float* w, int which = 0) const {
    if (threadIdx.x < step / 4) copy_async_16(vector(to, which) + threadIdx.x * 4, w + threadIdx.x * 4);
  }
  __device__ float* vector(int of, int which = 0) const {
    return reinterpret_cast<float*>(memory + P::stages * stage) + (2 * of + which) * step;
  }

  /// sum += A B of the step in stage `from`; extra += A w, where `w` is given: 32 numbers. If `Weighted`, A's columns
  /// are multiplied by `weights` first.
  template <bool TransposeA, bool TransposeB, bool Extra = false, bool Weighted = false>
  __device__ void multiply(int from, const float* w = nullptr, const float* weights = nullptr) {
    const number *a = memory + from * stage, *b = a + b_at;
    if constexpr (std::is_same_v<P, bf16_products>)
      multiply_bf16<TransposeA, TransposeB, Extra, Weighted>(a, b, w, weights);
    else
      multiply_float<TransposeA, TransposeB, Extra, Weighted>(a, b, w, weights);
  }
  /// sum += columns k .. k + 15 of A times those rows of B, which lie whole in shared memory.
  template <bool TransposeA, bool TransposeB, int WidthA, int WidthB>
  __device__ void multiply(whole_operand<WidthA> a, whole_operand<WidthB> b, int k) {
    std::uint32_t fa[2][4];
    load_a<TransposeA>(fa, k, [&](int row, int column) { return shared_address(a.at(row, column)); });
    add_products<TransposeB>(fa, k, [&](int row, int column) { return shared_address(b.at(row, column)); });
  }

 private:
  /// As float4s exchanges, but for pairs that are rounded already.
  __device__ void store_bf16(bf16* to, int stride) const {
    const bool odd = lane % 2 != 0;
    const int column = first_column + lane % 2 * 8 + lane % 4 / 2 * 4;
    const auto pair = [](const float* x) { return __uint_as_float(pack_bf16(x[0], x[1])); };
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        bf16* row = to + static_cast<index>(row_of(m, half)) * stride + column;
#pragma unroll
        for (int n = 0; n < across; n += 2) {
          const float x = pair(sum[m][n] + 2 * half), y = pair(sum[m][n + 1] + 2 * half);
          const float other = __shfl_xor_sync(~0u, select(odd, x, y), 1);
          *reinterpret_cast<float2*>(row + 8 * n) = {select(odd, other, x), select(odd, y, other)};
        }
      }
  }
  /// Columns k .. k + 15 of A, where `at(row, column)` is the address of 16 bytes of it as it lies.
  template <bool Transpose, class At>
  __device__ void load_a(std::uint32_t (&fa)[2][4], int k, const At& at) const {
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      const int row = first_row + 16 * m;
      load_matrices<Transpose>(fa[m], Transpose ? at(k + lane % 8 + lane / 16 * 8, row + lane / 8 % 2 * 8)
                                                : at(row + lane % 16, k + lane / 16 * 8));
    }
  }
  /// sum += those columns times rows k .. k + 15 of B.
  template <bool Transpose, class At>
  __device__ void add_products(const std::uint32_t (&fa)[2][4], int k, const At& at) {
    std::uint32_t fb[across / 2][4];
#pragma unroll
    for (int n = 0; n < across; n += 2) {
      const int column = first_column + 8 * n;
      load_matrices<!Transpose>(fb[n / 2], Transpose
                                               ? at(column + lane % 8 + lane / 16 * 8, k + lane / 8 % 2 * 8)
                                               : at(k + lane % 16, column + lane / 16 * 8));
    }
#pragma unroll
    for (int n = 0; n < across; ++n)
#pragma unroll
      for (int m = 0; m < 2; ++m)
        multiply_add(sum[m][n], fa[m], fb[n / 2][n % 2 * 2], fb[n / 2][n % 2 * 2 + 1]);
  }

  template <bool TransposeA, bool TransposeB, bool Extra, bool Weighted>
  __device__ void multiply_bf16(const bf16* a, const bf16* b, const float* w, const float* weights) {
    constexpr int lda = (TransposeA ? rows : step) + padding, ldb = (TransposeB ? step : N) + padding;
#pragma unroll
    for (int k = 0; k < step; k += 16) {
      std::uint32_t fa[2][4];
      load_a<TransposeA>(fa, k, [&](int row, int column) { return shared_address(a + row * lda + column); });
      if constexpr (Weighted) {
        const float2 of[2] = {load2(weights + k + 2 * (lane % 4)), load2(weights + k + 8 + 2 * (lane % 4))};
#pragma unroll
        for (auto& piece : fa)
#pragma unroll
          for (int e = 0; e < 4; ++e)
            piece[e] = pack_bf16(bf16_low(piece[e]) * of[e / 2].x, bf16_high(piece[e]) * of[e / 2].y);
      }
      add_products<TransposeB>(fa, k,
                               [&](int row, int column) { return shared_address(b + row * ldb + column); });
      if constexpr (Extra)
        if (w) {
          // The vector's rounded part is one column of a B, what rounding left another.
          std::uint32_t fw[2] = {0, 0};
          if (lane < 8)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
              const float x = w[k + 8 * half + 2 * (lane % 4)], y = w[k + 8 * half + 2 * (lane % 4) + 1];
              const std::uint32_t high = pack_bf16(x, y);
              fw[half] = lane < 4 ? high : pack_bf16(x - bf16_low(high), y - bf16_high(high));
            }
#pragma unroll
          for (int m = 0; m < 2; ++m) multiply_add(extra[m], fa[m], fw[0], fw[1]);
        }
    }
  }

  template <bool TransposeA, bool TransposeB, bool Extra, bool Weighted>
  __device__ void multiply_float(const float* a, const float* b, const float* w, const float* weights) {
    constexpr int lda = (TransposeA ? rows : step) + padding, ldb = (TransposeB ? step : N) + padding;
#pragma unroll 4
    for (int k = 0; k < step; ++k) {
      float fa[4];
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        const int row = row_of(r / 2, r % 2);
        fa[r] = a[TransposeA ? k * lda + row : row * lda + k];
        if constexpr (Weighted) fa[r] *= weights[k];
      }
#pragma unroll
      for (int n = 0; n < across; ++n) {
        const int column = column_of(n);
        const float2 fb =
            TransposeB ? float2{b[column * ldb + k], b[(column + 1) * ldb + k]} : load2(b + k * ldb + column);
#pragma unroll
        for (int r = 0; r < 4; ++r) {
          float* c = sum[r / 2][n] + r % 2 * 2;
          c[0] += fa[r] * fb.x, c[1] += fa[r] * fb.y;
        }
      }
      if constexpr (Extra)
        if (w) {
          const float x = w[k];
#pragma unroll
          for (int r = 0; r < 4; ++r) extra[r / 2][r % 2 * 2] += fa[r] * x;
        }
    }
  }
};

struct no_tail {
  __device__ void operator()(int, int) const {}
};
/// Runs `steps` steps through the tile's stages: fetch(step, stage), then multiply(step, stage) in order. As the last
/// P::stages - 1 are multiplied, tail(0, stage), tail(1, next stage) and so on may send for what is read after them:
/// who has a tail has as many steps.
template <class P, class Fetch, class Multiply, class Tail = no_tail>
__device__ void run_steps(int steps, const Fetch& fetch, const Multiply& multiply, const Tail& tail = {}) {
#pragma unroll
  for (int s = 0; s < P::stages - 1; ++s) {
    if (s < steps) fetch(s, s);
    commit_copies();
  }
  int stage = 0;
  for (int s = 0; s < steps; ++s) {
    wait_for_copies<P::stages - 2>();
    __syncthreads();  // what all threads sent for is there, and the stage to be filled next has been read
    const int next = s + P::stages - 1, free = stage == 0 ? P::stages - 1 : stage - 1;
    if (next < steps)
      fetch(next, free);
    else
      tail(next - steps, free);
    commit_copies();
    multiply(s, stage);
    stage = stage + 1 == P::stages ? 0 : stage + 1;
  }
}

}  // namespace distil_xlstm::device::detail
