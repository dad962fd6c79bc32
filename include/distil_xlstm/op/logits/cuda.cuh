#pragma once

#include <algorithm>
#include <cstring>
#include <optional>
#include <type_traits>

#include <distil_xlstm/device/cuda/fast_scalar.cuh>
#include <distil_xlstm/device/cuda/gemm.cuh>
#include <distil_xlstm/device/cuda/vector_access.cuh>
#include <distil_xlstm/math/kth_largest.hpp>
#include <distil_xlstm/op/logits/op.hpp>

namespace distil_xlstm::device {
namespace detail {

/// A block's threads fold a row of the student's logits beside the teacher's, 16 bytes at a time; every thread has
/// the row's result. `before` is what the row's earlier passes found.
template <int Threads, int Pass, class List, class L>
__device__ auto fold_row(const List& terms, const typename List::results& before, const L* student,
                         const L* teacher, int cols, unsigned char* memory) {
  using T = typename List::scalar;
  using V = fast_scalar<T, approximate::exponential>;
  using acc = typename List::template acc<T, Pass>;
  using pack = read_pack<L>;
  constexpr int each = 16 / static_cast<int>(sizeof(L)), step = Threads * each;
  acc* all = reinterpret_cast<acc*>(memory);
  const int thread = static_cast<int>(threadIdx.x), full = cols / each * each;

  auto folded = terms.template init<V, Pass>();
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
      V from_student[each], from_teacher[each];
#pragma unroll
      for (int i = 0; i < each; ++i)
        from_student[i] = V(s.template at<T>(i)), from_teacher[i] = V(t.template at<T>(i));
      terms.template visit<Pass>(folded, before, from_student, from_teacher);
      if (next >= full) break;
      c = next, s = next_s, t = next_t;
    }
  }
  for (c = full + thread; c < cols; c += Threads) {
    const V from_student[1] = {V(widen<T>(student[c]))}, from_teacher[1] = {V(widen<T>(teacher[c]))};
    terms.template visit<Pass>(folded, before, from_student, from_teacher);
  }

  static_assert(sizeof(acc) == sizeof(folded), "an accumulator holds nothing but V's");
  acc mine;
  memcpy(&mine, &folded, sizeof mine);
  if constexpr (Pass > 0) __syncthreads();  // the pass before is read by all
  all[thread] = mine;
  for (int half = Threads / 2; half > 0; half /= 2) {
    if (half >= 32)
      __syncthreads();
    else if (thread < 32)
      __syncwarp();
    if (thread < half) {
      terms.template merge<Pass>(mine, all[thread + half]);
      all[thread] = mine;
    }
  }
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

/// A block a row: finds the teacher's largest logits where a term asks for them, folds the row once or twice,
/// reports it, and writes its gradient, which may take the student's place. All but the first time the row is
/// read from the cache. `gradient` may be null.
template <int Threads, class Rows, class L, class G>
__global__ void __launch_bounds__(Threads)
    head_rows_kernel(Rows rows, const L* student, const L* teacher, index stride, G* gradient,
                     index gradient_stride, int cols, bool second_pass) {
  using T = typename Rows::scalar;
  using V = fast_scalar<T, approximate::exponential>;
  using list = typename Rows::list;
  using target = typename Rows::target;
  constexpr int each = 16 / static_cast<int>(sizeof(L)), step = Threads * each;
  using pack = read_pack<L>;
  extern __shared__ __align__(16) unsigned char memory[];
  __shared__ alignas(target) unsigned char target_memory[sizeof(target)];
  target& shared_target = *reinterpret_cast<target*>(target_memory);

  const auto step_terms = rows.terms.at_hand();
  const list& terms = step_terms();
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
  if (thread == 0) shared_target = target{widen<T>(student[at]), widen<T>(teacher[at])};

  typename list::results found;
  terms.select(found, [&](index k) { return select_kth<Threads, T>(k, teacher, cols); });
  terms.template record<0>(found, fold_row<Threads, 0>(terms, found, student, teacher, cols, memory));
  if constexpr (list::two_passes)
    if (second_pass)
      terms.template record<1>(found, fold_row<Threads, 1>(terms, found, student, teacher, cols, memory));
  const target at_target = shared_target;
  if (thread == 0) rows.finish(terms, r, found, at_target);
  if (!gradient) return;

  const T factor = rows.factor * step_terms.factor();
  const T more = terms.target_grad(found, at_target, factor);
  for (int c = thread * each; c < full; c += step) {
    const pack s = pack::last(student + c), t = pack::last(teacher + c);
    V from_student[each], from_teacher[each], g[each];
#pragma unroll
    for (int i = 0; i < each; ++i)
      from_student[i] = V(s.template at<T>(i)), from_teacher[i] = V(t.template at<T>(i));
    terms.grad(g, found, at_target, from_student, from_teacher, factor);
    if (at >= c && at < c + each) {
#pragma unroll
      for (int i = 0; i < each; ++i) g[i].x += c + i == at ? more : T(0);
    }
    stored<G, each> out;
#pragma unroll
    for (int i = 0; i < each; i += 2) narrow(g[i].x, g[i + 1].x, out.s + i);
    *reinterpret_cast<stored<G, each>*>(gradient + c) = out;
  }
  for (int c = full + thread; c < cols; c += Threads) {
    const T g = terms.grad(found, at_target, V(widen<T>(student[c])), V(widen<T>(teacher[c])), factor).x;
    gradient[c] = G(c == at ? g + more : g);
  }
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
  constexpr std::size_t shared = Threads * fold_bytes<Rows>();
  static_assert(shared < 160 * 1024, "an accumulator of a row is not as large as this");
  launch(device, "the head's rows", {static_cast<unsigned>(count), Threads, shared},
         head_rows_kernel<Threads, Rows, L, G>, rows, student, teacher, stride, gradient, gradient_stride,
         static_cast<int>(cols), rows.terms.facts().second_pass);
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
void head_pass(basic_cuda<P>& device, const Rows& rows, matrix_view<const T> hs, matrix_view<const T> ht,
               const Head& head, matrix_view<T> dhs, index bytes) {
  // Large chunks make good products; what one holds does not stay in the cache, at any size that does.
  if (bytes == 0) bytes = index{768} << 20;
  constexpr std::size_t acc = detail::fold_bytes<Rows>();
  constexpr int threads = acc <= 64 ? 1024 : acc <= 256 ? 512 : 128;
  using stored = product_t<P, T>;
  detail::head_chunks<stored, stored, threads>(device, rows, hs, ht, head, dhs, bytes);
}

}  // namespace distil_xlstm::device
