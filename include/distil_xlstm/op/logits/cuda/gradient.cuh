#pragma once

#include <type_traits>

#include <distil_xlstm/op/logits/cuda/folds.cuh>

// The gradient of a row of logits.
namespace distil_xlstm::device::detail {

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

}  // namespace distil_xlstm::device::detail
