#pragma once

#include <algorithm>
#include <cstring>
#include <type_traits>

#include <distil_xlstm/device/cuda/gemm.cuh>
#include <distil_xlstm/device/cuda/quick.cuh>
#include <distil_xlstm/device/cuda/stored.cuh>

namespace distil_xlstm::device {
namespace detail {

/// A block a row: folds the row of logits, reports it, and writes its gradient, which may take the student's
/// place. A row is read twice, a second time while it is in the cache. `gradient` may be null.
template <int Threads, class Rows, class L, class G>
__global__ void __launch_bounds__(Threads)
    head_rows_kernel(Rows asked, const L* student, const L* teacher, index stride, G* gradient,
                     index gradient_stride, int cols) {
  using T = typename Rows::scalar;
  using V = quick<T>;
  using acc = typename Rows::template acc<T>;
  using target = typename Rows::target;
  constexpr int each = 16 / static_cast<int>(sizeof(L)), step = Threads * each;
  using pack = read_pack<L>;
  extern __shared__ __align__(16) unsigned char memory[];
  acc* all = reinterpret_cast<acc*>(memory);
  __shared__ alignas(target) unsigned char target_memory[sizeof(target)];
  target& at_target = *reinterpret_cast<target*>(target_memory);

  const auto rows = asked.at_hand();
  const index r = blockIdx.x;
  const int thread = static_cast<int>(threadIdx.x), full = cols / each * each;
  student += r * stride, teacher += r * stride;
  if (gradient) gradient += r * gradient_stride;
  if (!rows.takes(r)) {
    if (thread == 0) rows.skip(r);
    if (gradient)
      for (int c = thread; c < cols; c += Threads) gradient[c] = G(0.f);
    return;
  }
  const int at = rows.targets[r];
  if (thread == 0) at_target = target{widen<T>(student[at]), widen<T>(teacher[at])};

  auto folded = rows.template init<V>();
  pack s, t, next_s, next_t;
  int c = thread * each;
  if (c < full) {
    s = pack::first(student + c), t = pack::first(teacher + c);
    for (;;) {
      const int next = c + step;
      if (next < full) {
        next_s = pack::first(student + next);
        next_t = pack::first(teacher + next);
      }
#pragma unroll
      for (int i = 0; i < each; ++i)
        rows.template visit<V>(folded, V(s.template at<T>(i)), V(t.template at<T>(i)));
      if (next >= full) break;
      c = next, s = next_s, t = next_t;
    }
  }
  for (c = full + thread; c < cols; c += Threads)
    rows.template visit<V>(folded, V(widen<T>(student[c])), V(widen<T>(teacher[c])));

  static_assert(sizeof(acc) == sizeof(folded), "an accumulator holds nothing but V's");
  acc mine;
  memcpy(&mine, &folded, sizeof mine);
  all[thread] = mine;
  for (int half = Threads / 2; half > 0; half /= 2) {
    if (half >= 32)
      __syncthreads();
    else if (thread < 32)
      __syncwarp();
    if (thread < half) {
      rows.merge(mine, all[thread + half]);
      all[thread] = mine;
    }
  }
  __syncthreads();
  const acc total = all[0];
  const target kept = at_target;
  if (thread == 0) rows.finish(r, total, kept);
  if (!gradient) return;

  const T more = rows.target_grad(total, kept);
  for (c = thread * each; c < full; c += step) {
    s = pack::last(student + c), t = pack::last(teacher + c);
    T g[each];
#pragma unroll
    for (int i = 0; i < each; ++i)
      g[i] = rows.template grad<V>(total, kept, V(s.template at<T>(i)), V(t.template at<T>(i))).x;
    if (at >= c && at < c + each) {
#pragma unroll
      for (int i = 0; i < each; ++i) g[i] += c + i == at ? more : T(0);
    }
    stored<G, each> out;
#pragma unroll
    for (int i = 0; i < each; i += 2) narrow(g[i], g[i + 1], out.s + i);
    *reinterpret_cast<stored<G, each>*>(gradient + c) = out;
  }
  for (c = full + thread; c < cols; c += Threads) {
    const T g = rows.template grad<V>(total, kept, V(widen<T>(student[c])), V(widen<T>(teacher[c]))).x;
    gradient[c] = G(c == at ? g + more : g);
  }
}

template <int Threads, class Rows, class L, class G>
void run_head_rows(cuda_base& device, const Rows& rows, index count, const L* student, const L* teacher,
                   index stride, G* gradient, index gradient_stride, index cols) {
  constexpr std::size_t shared = Threads * sizeof(typename Rows::template acc<typename Rows::scalar>);
  static_assert(shared < 160 * 1024, "an accumulator of a row is not as large as this");
  launch(device, "the head's rows", {static_cast<unsigned>(count), Threads, shared},
         head_rows_kernel<Threads, Rows, L, G>, rows, student, teacher, stride, gradient, gradient_stride,
         static_cast<int>(cols));
}

/// The pass with products of P's and logits stored as L's; their gradient takes their place, or, as P's, a
/// place beside.
template <class P, class L, int Threads, class Rows, class T, class Head>
void head_chunks(cuda_base& device, const Rows& rows, matrix_view<const T> hs, matrix_view<const T> ht,
                 const Head& head, matrix_view<T> dhs, index bytes) {
  constexpr bool in_place = std::is_same_v<P, L>;
  constexpr index unit = 16 / static_cast<index>(std::min(sizeof(L), sizeof(P)));
  const auto padded = [](index n) { return (n + unit - 1) / unit * unit; };
  const index n = hs.rows, d = hs.cols, vocabulary = head.rows, sides = ht.data ? 2 : 1;
  const index width = padded(d), stride = padded(vocabulary);
  const index row = stride * (sides * static_cast<index>(sizeof(L)) + (in_place ? 0 : index{sizeof(P)}));
  index chunk = std::clamp<index>(bytes / row, 1, n);
  if (chunk > 128) chunk -= chunk % 128;  // whole tiles of a product
  // A float head is rounded here, where all chunks find it.
  cuda_operand matrix = product_operand(head);
  const bool round = product_input<P>::kept(matrix);
  auto rounded = device.template scratch<P>(round ? matrix.rows * width : 0);
  if (round) {
    convert(device, 1, static_cast<const float*>(matrix.data), matrix.stride, 0, rounded.data(), width, 0,
            matrix.rows, matrix.cols);
    matrix.data = rounded.data(), matrix.dtype = dtype::bf16, matrix.stride = width;
  }
  const product_input<P> weight(device, matrix, 1, 0);
  auto hidden = device.template scratch<P>(sides * chunk * width);
  auto logits = device.template scratch<L>(sides * chunk * stride);
  auto beside = device.template scratch<P>(in_place || !dhs.data ? 0 : chunk * stride);
  for (index first = 0; first < n; first += chunk) {
    const index m = std::min(chunk, n - first);
    convert(device, 1, hs.row(first), hs.stride, 0, hidden.data(), width, 0, m, d);
    if (ht.data) convert(device, 1, ht.row(first), ht.stride, 0, hidden.data() + m * width, width, 0, m, d);
    blas_product(device, sides * m, vocabulary, d, blas_operand<P>{hidden.data(), width},
                 blas_operand<P>{weight.data, weight.stride, true}, 0, logits.data(), stride);
    // A teacher that no weight asks for is the student itself: its divergence is 0.
    const L* teacher = logits.data() + (ht.data ? m * stride : 0);
    P* gradient = nullptr;
    if (dhs.data) {
      if constexpr (in_place)
        gradient = logits.data();
      else
        gradient = beside.data();
    }
    run_head_rows<Threads>(device, rows.from(first), m, static_cast<const L*>(logits.data()), teacher, stride,
                           gradient, stride, vocabulary);
    if (gradient)
      blas_product(device, m, d, vocabulary, blas_operand<P>{gradient, stride},
                   blas_operand<P>{weight.data, weight.stride}, 0, dhs.row(first), dhs.stride);
  }
}

}  // namespace detail

/// A pass of `rows` over the logits of student and teacher, as loss/head.hpp says: two products and one kernel
/// a chunk. Where products are in bfloat16, so are the logits and their gradient in memory, as in a network in
/// mixed precision: float logits take half as long again, and lower the hidden gradient's error from 1.74e-3
/// to 1.68e-3.
template <Precision P, class Rows, class T, class Head>
void head_pass(basic_cuda<P>& device, const Rows& rows, matrix_view<const T> hs, matrix_view<const T> ht,
               const Head& head, matrix_view<T> dhs, index bytes) {
  // Large chunks make good products; what one holds does not stay in the cache, at any size that does.
  if (bytes == 0) bytes = index{768} << 20;
  constexpr std::size_t acc = sizeof(typename Rows::template acc<T>);
  constexpr int threads = acc <= 64 ? 1024 : acc <= 256 ? 512 : 128;
  using stored = product_t<P, T>;
  detail::head_chunks<stored, stored, threads>(device, rows, hs, ht, head, dhs, bytes);
}

}  // namespace distil_xlstm::device
