#pragma once

#include <string_view>

#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/loss/cosine.hpp>
#include <distil_xlstm/loss/layers.hpp>
#include <distil_xlstm/loss/mse.hpp>

namespace distil_xlstm::loss {

/// The forms of hidden-state alignment that a command line names: a term, its scope, and what it compares.
enum class alignment {
  none,
  average,     ///< frobenius(layers::average)
  ratio,       ///< frobenius(layers::ratio)
  block_wise,  ///< frobenius(layers::block_wise, scope::sequence)
  paper,       ///< frobenius(layers::average, scope::sequence)
  cosine,      ///< cosine(layers::ratio)
  mse          ///< mse(layers::average)
};

/// By the names of a command line: those of the enumerators, and `block-wise`. Throws `error` on any other.
inline alignment alignment_named(std::string_view name) {
  if (name == "none") return alignment::none;
  if (name == "average") return alignment::average;
  if (name == "ratio") return alignment::ratio;
  if (name == "block_wise" || name == "block-wise") return alignment::block_wise;
  if (name == "paper") return alignment::paper;
  if (name == "cosine") return alignment::cosine;
  if (name == "mse") return alignment::mse;
  fail("alignment '", name, "' is not known (none, average, ratio, block_wise, paper, cosine, mse are)");
}
/// The name that `alignment_named` takes.
constexpr std::string_view name_of(alignment a) {
  constexpr std::string_view names[] = {"none", "average", "ratio", "block_wise", "paper", "cosine", "mse"};
  return names[static_cast<int>(a)];
}
/// The term that a form is of: "" of none.
constexpr std::string_view term_name_of(alignment a) {
  constexpr std::string_view names[] = {"",          "frobenius", "frobenius", "frobenius",
                                        "frobenius", "cosine",    "mse"};
  return names[static_cast<int>(a)];
}
/// What a form compares.
constexpr layers layers_of(alignment a) {
  switch (a) {
    case alignment::none: return layers::none;
    case alignment::ratio:
    case alignment::cosine: return layers::ratio;
    case alignment::block_wise: return layers::block_wise;
    default: return layers::average;
  }
}

/// An alignment whose form is chosen when the program runs. `none` is 0 everywhere.
template <class T>
struct alignment_term {
  /// @{
  /// As the concept `HiddenTerm` says.
  using site = hidden_site;
  using scalar = T;
  using sum = math::sum<T>;  ///< what a fold gives
  static constexpr const char* name = "alignment";
  /// @}
  alignment form = alignment::average;  ///< which term and scope; not what is compared: see `layers_of`

  /// The difference's square, and what the cosine folds; takes() says which are needed.
  template <class V>
  DISTIL_XLSTM_HD auto folds(V student, V target) const {
    const V d = student - target;
    return fold_list(fold<math::sum>(d * d), fold<math::sum>(student * target),
                     fold<math::sum>(student * student), fold<math::sum>(target * target));
  }
  /// @name What every hidden term has
  /// @{

  /// As the concept `HiddenTerm` says.
  bool takes(int, std::size_t fold) const {
    return form != alignment::none && (form == alignment::cosine) == (fold > 0);
  }
  DISTIL_XLSTM_HD loss::scope scope() const {
    switch (form) {
      case alignment::cosine: return loss::scope::row;
      case alignment::block_wise:
      case alignment::paper: return loss::scope::sequence;
      default: return loss::scope::batch;
    }
  }
  DISTIL_XLSTM_HD T value(const hidden_counts<T>& n, const sum& squares, const sum& st, const sum& ss,
                          const sum& tt) const {
    switch (form) {
      case alignment::none: return T(0);
      case alignment::cosine: return cosine_term<T>{}.value(n, st, ss, tt);
      case alignment::mse: return mse_term<T>{}.value(n, squares);
      default: return frobenius_term<T>(scope()).value(n, squares);
    }
  }
  template <class V>
  DISTIL_XLSTM_HD V grad(const hidden_counts<T>& n, V student, V target, const sum& squares, const sum& st,
                         const sum& ss, const sum& tt) const {
    switch (form) {
      case alignment::none: return V(0);
      case alignment::cosine: return cosine_term<T>{}.grad(n, student, target, st, ss, tt);
      case alignment::mse: return mse_term<T>{}.grad(n, student, target, squares);
      default: return frobenius_term<T>(scope()).grad(n, student, target, squares);
    }
  }
  /// @}
};

}  // namespace distil_xlstm::loss
