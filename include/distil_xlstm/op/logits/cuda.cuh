#pragma once

#include <algorithm>
#include <optional>
#include <type_traits>

#include <distil_xlstm/device/cuda/gemm.cuh>
#include <distil_xlstm/op/logits/cuda/folds.cuh>
#include <distil_xlstm/op/logits/cuda/gradient.cuh>
#include <distil_xlstm/op/logits/cuda/rows.cuh>
#include <distil_xlstm/op/logits/op.hpp>

namespace distil_xlstm::device {
namespace detail {

/// `each` rows, one after the other (1 where a `Row` is whole): finds the teacher's largest logits where a term asks
/// for them, folds the row once or twice, reports it, and writes its gradient, which may take the student's place.
/// `gradient` may be null. The first `kept` bytes of the dynamic shared memory are the row's, the others are for
/// folding.
template <int Threads, class Row, class Rows, class L>
__global__ void __launch_bounds__(Threads, Row::blocks_at_once)
    head_rows_kernel(Rows rows, int count, int each, const L* student, const L* teacher, index stride,
                     L* gradient, index gradient_stride, int cols, int kept, bool second_pass) {
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
        for (int c = any.thread; c < cols; c += any.threads) gradient[index{r} * gradient_stride + c] = L(0.f);
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

template <int Threads, class Rows, class L>
void run_head_rows(cuda_base& device, const Rows& rows, index count, const L* student, const L* teacher,
                   index stride, L* gradient, index gradient_stride, index cols) {
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
      return run(head_rows_kernel<threads, row, Rows, L>,
                 {static_cast<unsigned>(blocks_for(count, each) * blocks), threads, shared, blocks}, each,
                 row::bytes(cols));
    }
  }
  run(head_rows_kernel<Threads, cached_row<Threads, L>, Rows, L>,
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

/// The pass with products and logits of L's; the logits' gradient takes their place.
template <class L, int Threads, class Rows, class T, class Head>
void head_chunks(cuda_base& device, const Rows& rows, matrix_view<const T> hs, matrix_view<const T> ht,
                 const Head& head, matrix_view<T> dhs, index bytes) {
  constexpr index unit = 16 / static_cast<index>(sizeof(L));
  const auto padded = [](index n) { return (n + unit - 1) / unit * unit; };
  const auto heads = distil_xlstm::detail::as_head_pair<T>(head);
  const bool teaches = ht.data, one_product = teaches && heads.shared();
  const bool wants_gradient = dhs.data || heads.gradient.data;
  const index n = hs.rows, d = hs.cols, vocabulary = heads.student.rows, sides = teaches ? 2 : 1;
  const index width = padded(d), teacher_width = padded(ht.cols), stride = padded(vocabulary);
  const index row = stride * sides * static_cast<index>(sizeof(L));
  index chunk = std::clamp<index>(bytes / row, 1, n);
  if (chunk > 128) chunk -= chunk % 128;  // whole tiles of a product
  const head_weight<L> weight(device, heads.student, width);
  std::optional<head_weight<L>> teacher_weight;
  if (teaches && !one_product) teacher_weight.emplace(device, heads.teacher, teacher_width);
  auto hidden = device.template scratch<L>(chunk * (width + (teaches ? teacher_width : 0)));
  auto logits = device.template scratch<L>(sides * chunk * stride);
  for (index first = 0; first < n; first += chunk) {
    const index m = std::min(chunk, n - first);
    L* hidden_teacher = hidden.data() + m * width;
    const blas_operand<L> student_rows{hidden.data(), width};
    convert(device, 1, hs.row(first), hs.stride, 0, hidden.data(), width, 0, m, d);
    if (teaches) convert(device, 1, ht.row(first), ht.stride, 0, hidden_teacher, teacher_width, 0, m, ht.cols);
    blas_product(device, one_product ? 2 * m : m, vocabulary, d, student_rows, weight.transposed(), 0,
                 logits.data(), stride);
    if (teacher_weight)
      blas_product(device, m, vocabulary, ht.cols, blas_operand<L>{hidden_teacher, teacher_width},
                   teacher_weight->transposed(), 0, logits.data() + m * stride, stride);
    // A teacher that no weight asks for is the student itself: its divergence is 0.
    const L* teacher = logits.data() + (teaches ? m * stride : 0);
    L* gradient = wants_gradient ? logits.data() : nullptr;
    run_head_rows<Threads>(device, rows.from(first), m, static_cast<const L*>(logits.data()), teacher, stride,
                           gradient, stride, vocabulary);
    if (dhs.data)
      blas_product(device, m, d, vocabulary, blas_operand<L>{gradient, stride}, weight.plain(), 0,
                   dhs.row(first), dhs.stride);
    if (heads.gradient.data)
      blas_product(device, vocabulary, d, m, blas_operand<L>{gradient, stride, true}, student_rows, 1,
                   heads.gradient.data, heads.gradient.stride);
  }
}

}  // namespace detail

/// A pass of `rows` over the logits of student and teacher, as loss/head.hpp says: a product of both with a shared
/// head, one of the gradient, and one kernel a chunk; a product more for a teacher's own head, and for the
/// gradient of the student's. Where products are in bfloat16, so are the logits and their gradient in memory, as in a
/// network in mixed precision: float logits take half as long again, and lower the hidden gradient's error from 1.74e-3
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
  detail::head_chunks<stored, threads>(device, rows, hs, ht, head, dhs, bytes);
}

}  // namespace distil_xlstm::device
