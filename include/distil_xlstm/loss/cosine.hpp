#pragma once

#include <distil_xlstm/loss/term.hpp>

namespace distil_xlstm::loss {

/// mean over rows of 1 - cos(student, target), with cos = s.t / sqrt((s.s + e)(t.t + e)), e = 1e-12
/// (PyTorch's CosineEmbeddingLoss with target 1).
template <class T>
struct cosine_term {
  /// @{
  /// As the concept `HiddenTerm` says.
  using site = hidden_site;
  using scalar = T;
  using sum = math::sum<T>;  ///< what a fold gives
  static constexpr const char* name = "cosine";
  /// @}
  static constexpr T epsilon = T(1e-12);  ///< e

  /// @name What every hidden term has
  /// @{

  /// As the concept `HiddenTerm` says.
  template <class V>
  DISTIL_XLSTM_HD auto folds(V s, V t) const {
    return fold_list(fold<math::sum>(s * t), fold<math::sum>(s * s), fold<math::sum>(t * t));
  }
  static constexpr DISTIL_XLSTM_HD loss::scope scope() { return loss::scope::row; }

  DISTIL_XLSTM_HD T value(const hidden_counts<T>& n, const sum& st, const sum& ss, const sum& tt) const {
    return (T(1) - st.total * inverse_norms(ss, tt)) / n.rows;
  }
  template <class V>
  DISTIL_XLSTM_HD V grad(const hidden_counts<T>& n, V student, V target, const sum& st, const sum& ss,
                         const sum& tt) const {
    const T over = inverse_norms(ss, tt), cos = st.total * over;
    return student * V(cos / ((ss.total + epsilon) * n.rows)) - target * V(over / n.rows);
  }
  /// @}

 private:
  /// 1 / (|s| |t|), as two roots: their product would leave float's range first.
  static DISTIL_XLSTM_HD T inverse_norms(const sum& ss, const sum& tt) {
    using std::sqrt;
    return T(1) / (sqrt(ss.total + epsilon) * sqrt(tt.total + epsilon));
  }
};

}  // namespace distil_xlstm::loss
