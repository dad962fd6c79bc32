#pragma once

#include <type_traits>

#include <distil_xlstm/op/logits/soft_cap.hpp>

namespace distil_xlstm {

/// What reads logits off hidden states: hidden headᵀ, softly capped where there is a cap. It is no matrix, so
/// that nobody forgets the cap: `write_logits` takes it where it takes a matrix.
struct logit_head {
  frozen_matrix matrix;  ///< [vocabulary, width]
  double cap = 0;        ///< 0: none
  /// @{ Vocabulary and width, as of a matrix.
  index rows = 0, cols = 0;
  /// @}

  logit_head() = default;
  /// A soft_cap of 0 is none.
  logit_head(frozen_matrix head, double soft_cap = 0)
      : matrix(head), cap(soft_cap), rows(head.rows), cols(head.cols) {}
};

/// The heads of a student and of its teacher where each has its own; widths may differ, vocabularies do not. What
/// takes one matrix for both takes a pair, too. Two `logit_head`s, whose logits may be capped, have no gradient.
template <class Student, class Teacher, class T>
struct head_pair {
  Student student;            ///< [vocabulary, width of the student]
  Teacher teacher;            ///< [vocabulary, width of the teacher]
  matrix_view<T> gradient{};  ///< the student's is added here; without data it is not wanted
  static constexpr bool capped = std::is_same_v<Student, logit_head>;  ///< logits may be capped
  static_assert(capped == std::is_same_v<Teacher, logit_head>,
                "distil_xlstm::head_pair: where one head is a logit_head, both are; write logit_head{matrix}");

  /// One matrix: logits of both are one product.
  bool shared() const {
    if constexpr (std::is_same_v<Student, Teacher> && !capped)
      return student.data == teacher.data && student.rows == teacher.rows && student.cols == teacher.cols;
    else
      return false;
  }
};
/// `head_pair{student, teacher, gradient}` says its types by itself.
template <class Student, class Teacher, class T>
head_pair(Student, Teacher, matrix_view<T>) -> head_pair<Student, Teacher, T>;

namespace detail {
template <class T, class Head>
auto as_head_pair(const Head& head) {
  if constexpr (requires { head.shared(); })
    return head;
  else
    return head_pair<Head, Head, T>{head, head};
}
}  // namespace detail

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
