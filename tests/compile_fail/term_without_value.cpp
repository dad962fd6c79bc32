// expect: loss::term(t): a term at hidden_site needs scalar, acc, init, visit, merge, value and grad
#include <distil_xlstm/loss/expression.hpp>

namespace dx = distil_xlstm;

/// mean of squares.
struct squares {
  using site = dx::loss::hidden_site;
  using scalar = double;
  static constexpr const char* name = "squares";
  dx::loss::scope scope() const { return dx::loss::scope::batch; }
  template <class V>
  struct acc {
    V sum;
  };
  template <class V>
  acc<V> init() const {
    return {V(0)};
  }
  template <class V>
  void visit(acc<V>& a, V s, V) const {
    a.sum = a.sum + s * s;
  }
  void merge(acc<double>& into, const acc<double>& from) const { into.sum += from.sum; }
#if !defined(EXPECT_FAILURE)
  double value(const acc<double>& a, const dx::loss::hidden_counts<double>&) const { return a.sum; }
#endif
  template <class V>
  V grad(const acc<double>&, const dx::loss::hidden_counts<double>&, V s, V) const {
    return s + s;
  }
};

const auto e = dx::loss::term(squares{});
