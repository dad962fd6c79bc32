#pragma once

#include "compare.hpp"

#include <cstdint>
#include <vector>

/// What tests of products share.
namespace distil_xlstm {

/// A matrix of `rows` by `cols` inside a wider one, from its column `offset` on.
template <class T, class D>
struct operand {
  on_device<T, D> memory;
  index rows, cols, offset, stride;
  operand(D& d, index r, index c, std::uint64_t seed, index o, index s, bool rounded)
      : memory(d, rounded ? rounded_numbers(r * s, seed) : random_numbers(r * s, seed)),
        rows(r),
        cols(c),
        offset(o),
        stride(s) {}
  matrix_view<const T> view() const { return {memory.data() + offset, rows, cols, stride}; }
};

struct product_shape {
  index m, n, k, slack, offset;
};

/// c of c = beta c + a b, for the four ways to turn the operands, one after another. They are stored as A's and B's;
/// `rounded`: of numbers that bfloat16 holds. `plus`: the same of beta 1 by `gemm_plus`.
template <class T, class A = T, class B = T, class D>
std::vector<double> products(D& d, product_shape s, double beta, bool rounded = false, bool plus = false) {
  const auto side = [&]<class S>(S, index r, index c, std::uint64_t seed) {
    return operand<S, D>(d, r, c, seed, s.offset, c + s.slack, rounded);
  };
  const auto a = side(A(), s.m, s.k, 1), at = side(A(), s.k, s.m, 3);
  const auto b = side(B(), s.k, s.n, 2), bt = side(B(), s.n, s.k, 4);
  std::vector<double> all;
  const auto run = [&](auto left, auto right) {
    const on_device<T, D> c(d, random_numbers(s.m * (s.n + s.slack), 5)),
        addend(d, random_numbers(s.m * (s.n + s.slack), 5));
    const auto view = [&](const on_device<T, D>& m) {
      return matrix_view<T>(m.data() + s.offset, s.m, s.n, s.n + s.slack);
    };
    if (plus)
      gemm_plus(d, left, right, view(addend), view(c));
    else
      gemm(d, left, right, view(c), static_cast<T>(beta));
    const auto numbers = c.numbers();
    all.insert(all.end(), numbers.begin(), numbers.end());
  };
  run(a.view(), b.view());
  run(a.view(), transposed(bt.view()));
  run(transposed(at.view()), b.view());
  run(transposed(at.view()), transposed(bt.view()));
  return all;
}

}  // namespace distil_xlstm
