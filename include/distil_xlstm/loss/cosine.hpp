#pragma once

#include <distil_xlstm/loss/term.hpp>

namespace distil_xlstm::loss {

/// mean over rows of 1 - cos(student, target), with cos = s.t / sqrt((s.s + e)(t.t + e)), e = 1e-12
/// (PyTorch's CosineEmbeddingLoss with target 1).
template <class T>
struct cosine_term {
  using site = hidden_site;
  using scalar = T;
  static constexpr const char* name = "cosine";
  static constexpr T epsilon = T(1e-12);

  template <class V>
  struct acc {
    V st, ss, tt;
  };
  template <class V>
  DISTIL_XLSTM_HD acc<V> init() const {
    return {V(0), V(0), V(0)};
  }
  template <class V>
  DISTIL_XLSTM_HD void visit(acc<V>& a, V student, V target) const {
    a.st = a.st + student * target;
    a.ss = a.ss + student * student;
    a.tt = a.tt + target * target;
  }
  DISTIL_XLSTM_HD void merge(acc<T>& into, const acc<T>& from) const {
    into.st += from.st, into.ss += from.ss, into.tt += from.tt;
  }
  static constexpr DISTIL_XLSTM_HD loss::scope scope() { return loss::scope::row; }

  DISTIL_XLSTM_HD T value(const acc<T>& a, const hidden_counts<T>& n) const {
    return (T(1) - a.st * inverse_norms(a)) / n.rows;
  }
  template <class V>
  DISTIL_XLSTM_HD V grad(const acc<T>& a, const hidden_counts<T>& n, V student, V target) const {
    const T over = inverse_norms(a), cos = a.st * over;
    return student * V(cos / ((a.ss + epsilon) * n.rows)) - target * V(over / n.rows);
  }

 private:
  /// 1 / (|s| |t|), as two roots: their product would leave float's range first.
  static DISTIL_XLSTM_HD T inverse_norms(const acc<T>& a) {
    using std::sqrt;
    return T(1) / (sqrt(a.ss + epsilon) * sqrt(a.tt + epsilon));
  }
};

}  // namespace distil_xlstm::loss
