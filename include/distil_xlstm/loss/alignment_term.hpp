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
constexpr std::string_view name_of(alignment a) {
  constexpr std::string_view names[] = {"none", "average", "ratio", "block_wise", "paper", "cosine", "mse"};
  return names[static_cast<int>(a)];
}
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
  using site = hidden_site;
  using scalar = T;
  static constexpr const char* name = "alignment";
  alignment form = alignment::average;

  template <class V>
  struct acc {
    detail::squares<V> difference;
    typename cosine_term<T>::template acc<V> products;
  };
  template <class V>
  DISTIL_XLSTM_HD acc<V> init() const {
    return {{V(0)}, {V(0), V(0), V(0)}};
  }
  template <class V>
  DISTIL_XLSTM_HD void visit(acc<V>& a, V student, V target) const {
    if (form == alignment::cosine)
      cosine_term<T>{}.template visit<V>(a.products, student, target);
    else
      mse_term<T>{}.template visit<V>(a.difference, student, target);
  }
  DISTIL_XLSTM_HD void merge(acc<T>& into, const acc<T>& from) const {
    mse_term<T>{}.merge(into.difference, from.difference);
    cosine_term<T>{}.merge(into.products, from.products);
  }
  DISTIL_XLSTM_HD loss::scope scope() const {
    switch (form) {
      case alignment::cosine: return loss::scope::row;
      case alignment::block_wise:
      case alignment::paper: return loss::scope::sequence;
      default: return loss::scope::batch;
    }
  }
  DISTIL_XLSTM_HD T value(const acc<T>& a, const hidden_counts<T>& n) const {
    switch (form) {
      case alignment::none: return T(0);
      case alignment::cosine: return cosine_term<T>{}.value(a.products, n);
      case alignment::mse: return mse_term<T>{}.value(a.difference, n);
      default: return frobenius_term<T>(scope()).value(a.difference, n);
    }
  }
  template <class V>
  DISTIL_XLSTM_HD V grad(const acc<T>& a, const hidden_counts<T>& n, V student, V target) const {
    switch (form) {
      case alignment::none: return V(0);
      case alignment::cosine: return cosine_term<T>{}.template grad<V>(a.products, n, student, target);
      case alignment::mse: return mse_term<T>{}.template grad<V>(a.difference, n, student, target);
      default: return frobenius_term<T>(scope()).template grad<V>(a.difference, n, student, target);
    }
  }
};

}  // namespace distil_xlstm::loss
