#pragma once

#include <cstddef>
#include <type_traits>

#include <distil_xlstm/op/logits/cuda/folds.cuh>

// The gradient of a row of logits.
namespace distil_xlstm::device::detail {

/// The gradient at the columns of a pack, but for the target's own part: as the terms have it.
template <class List, class L, class Target>
class term_gradient {
  using V = logit_scalar<typename List::scalar, L>;
  const List& terms_;
  const typename List::results& found_;
  const Target& target_;
  typename List::scalar factor_;

 public:
  __device__ term_gradient(const List& terms, const typename List::results& found, const Target& target,
                           typename List::scalar factor)
      : terms_(terms), found_(found), target_(target), factor_(factor) {}
  template <class T, int N>
  __device__ void operator()(T (&g)[N], const read_pack<L>& student, const read_pack<L>& teacher) const {
    V from_student[N], from_teacher[N], sums[N];
#pragma unroll
    for (int i = 0; i < N; ++i)
      from_student[i] = V(student.template at<T>(i)), from_teacher[i] = V(teacher.template at<T>(i));
    terms_.grad(sums, found_, target_, from_student, from_teacher, factor_);
#pragma unroll
    for (int i = 0; i < N; ++i) g[i] = sums[i].x;
  }
};

/// The same of bfloat16 logits as a sum of softmaxes, each a product with one exponential.
template <class List>
class softmax_gradient {
  static constexpr std::size_t folds = List::first_folds;
  const List& terms_;
  float weight_[folds], scale_[folds], shift_[folds];

 public:
  template <class Target>
  __device__ softmax_gradient(const List& terms, const typename List::results& found, const Target&,
                              float factor)
      : terms_(terms) {
    terms.softmax_factors(weight_);
    terms.each_softmax([&](auto j, auto, float inverse) {
      constexpr std::size_t J = decltype(j)::value;
      auto fold = List::template fold_of<J>(found);
      const auto& x = softmax_of(fold);
      scale_[J] = inverse * log2_e, shift_[J] = -x.max * log2_e;
      weight_[J] *= factor * reciprocal_approx(x.sum);
    });
  }
  __device__ void operator()(float (&g)[8], const read_pack<bf16>& student,
                             const read_pack<bf16>& teacher) const {
#pragma unroll
    for (int i = 0; i < 8; ++i) g[i] = 0;
    terms_.each_softmax([&](auto j, auto teaches, float) {
      constexpr std::size_t J = decltype(j)::value;
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const float x =
            decltype(teaches)::value ? teacher.template at<float>(i) : student.template at<float>(i);
        g[i] = fmaf(weight_[J], exp2_approx(fmaf(x, scale_[J], shift_[J])), g[i]);
      }
    });
  }
};

/// Writes the gradient of a row whose folds were `found` and whose target is column `at`, and begins to copy the row
/// that is `ahead` elements further, where that is not 0.
template <class List, class Row, class Target>
__device__ void write_gradient(const List& terms, const typename List::results& found, const Row& row,
                               typename Row::logit* gradient, int at, const Target& at_target,
                               typename List::scalar factor, int ahead) {
  using T = typename List::scalar;
  using L = typename Row::logit;
  using pack = typename Row::pack;
  constexpr int each = Row::each;
  using columns =
      std::conditional_t<sums_softmaxes<List, L>, softmax_gradient<List>, term_gradient<List, L, Target>>;
  const T more = terms.target_grad(found, at_target, factor);
  const columns of_columns(terms, found, at_target, factor);
  L* to = gradient;
  hold(to);
  row.visit_last(ahead, [&](int c, const pack& s, const pack& t) {
    T g[each];
    of_columns(g, s, t);
    if (static_cast<unsigned>(at - c) < each) {
#pragma unroll
      for (int i = 0; i < each; ++i) g[i] += c + i == at ? more : T(0);
    }
    if constexpr (std::is_same_v<L, bf16>) {
      store_eight_global(to + c, g);
    } else {
      stored<L, each> out;
#pragma unroll
      for (int i = 0; i < each; ++i) out.s[i] = g[i];
      *reinterpret_cast<stored<L, each>*>(gradient + c) = out;
    }
  });
  for (int c = row.packed() + row.thread; c < row.cols; c += row.threads) {
    T g[each];
    of_columns(g, pack::alone(row.student[c]), pack::alone(row.teacher[c]));
    gradient[c] = L(c == at ? g[0] + more : g[0]);
  }
}

}  // namespace distil_xlstm::device::detail
