// expect: loss::term(t): t's acc<V> must hold V's only; write V instead of double or int
#include <distil_xlstm/loss/expression.hpp>

namespace dx = distil_xlstm;

/// mean of squares.
struct squares {
  using site = dx::loss::logits_site;
  using scalar = double;
  static constexpr const char* name = "squares";
  static constexpr bool uses_teacher = false;
  template <class V>
  struct acc {
    V sum;
#if defined(EXPECT_FAILURE)
    double compensation = 0;
#endif
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
  double value(const acc<double>& a, const dx::loss::target_logits<double>&) const { return a.sum; }
  template <class V>
  V grad(const acc<double>&, const dx::loss::target_logits<double>&, V s, V) const {
    return s + s;
  }
  double target_grad(const acc<double>&, const dx::loss::target_logits<double>&) const { return 0; }
};

const auto e = dx::loss::term(squares{});
