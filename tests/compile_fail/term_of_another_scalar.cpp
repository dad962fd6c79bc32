// expect: loss: a term's scalar must be that of the objective; make the term a template on its scalar, or
#include <distil_xlstm/loss/expression.hpp>

namespace dx = distil_xlstm;

/// mean of squares.
struct squares {
  using site = dx::loss::logits_site;
  using scalar = float;
  static constexpr const char* name = "squares";
  static constexpr bool uses_teacher = false;
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
  void merge(acc<float>& into, const acc<float>& from) const { into.sum += from.sum; }
  float value(const acc<float>& a, const dx::loss::target_logits<float>&) const { return a.sum; }
  template <class V>
  V grad(const acc<float>&, const dx::loss::target_logits<float>&, V s, V) const {
    return s + s;
  }
  float target_grad(const acc<float>&, const dx::loss::target_logits<float>&) const { return 0; }
};

const auto e = dx::loss::cross_entropy() + dx::loss::term(squares{});
#if defined(EXPECT_FAILURE)
const auto objective = e.at<double>({});
#else
const auto objective = e.at<float>({});
#endif
