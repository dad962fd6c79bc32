#pragma once

#include <distil_xlstm/op/logits/soft_cap.hpp>

namespace distil_xlstm {

/// What reads logits off hidden states: hidden headᵀ, softly capped where there is a cap. It is no matrix, so
/// that nobody forgets the cap: `write_logits` takes it where it takes a matrix.
struct logit_head {
  frozen_matrix matrix;  ///< [vocabulary, width]
  double cap = 0;        ///< 0: none
  index rows = 0, cols = 0;

  logit_head() = default;
  logit_head(frozen_matrix head, double soft_cap = 0)
      : matrix(head), cap(soft_cap), rows(head.rows), cols(head.cols) {}
};

/// logits [rows, vocabulary] of hidden states [rows, width]; `head` is a matrix or a `logit_head`.
template <class D, class T, class Head>
void write_logits(D& d, matrix_view<const T> hidden, const Head& head, matrix_view<T> logits) {
  if constexpr (requires { head.matrix; }) {
    gemm(d, hidden, transposed(head.matrix), logits);
    soft_cap(d, logits, head.cap);
  } else {
    gemm(d, hidden, transposed(head), logits);
  }
}

}  // namespace distil_xlstm
