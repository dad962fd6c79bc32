#pragma once

#include <algorithm>
#include <array>
#include <concepts>

#include <distil_xlstm/loss/layers.hpp>
#include <distil_xlstm/loss/term_list.hpp>

namespace distil_xlstm::loss {

/// A whole objective at one step: numbers only, a list of terms a site.
template <class Logits, class Hidden>
struct objective {
  using scalar = typename Logits::scalar;  ///< of all terms
  /// Whether a term compares with a teacher, whatever its weight: hidden terms do.
  static constexpr bool asks_teacher = Logits::asks_teacher || Hidden::asks_teacher;
  Logits logits;                   ///< what `head` takes: the `term_list` of logits_site
  Hidden hidden;                   ///< what `align` takes: that of hidden_site
  layers compares = layers::none;  ///< what all its hidden terms look at
};

namespace detail {

template <class T, class Term>
auto lift(Term t, layers compares = layers::none) {
  static_assert(
      std::same_as<typename Term::scalar, T>,
      "distil_xlstm::loss: a term's scalar must be that of the objective; make the term a template on its "
      "scalar, or write at<float>() for terms of float");
  if constexpr (std::same_as<typename Term::site, logits_site>)
    return objective<term_list<logits_site, T, Term>, term_list<hidden_site, T>>{{{T(1)}, {t}}, {}};
  else
    return objective<term_list<logits_site, T>, term_list<hidden_site, T, Term>>{{}, {{T(1)}, {t}}, compares};
}

template <class T, class Site, class... Terms>
auto scale(T w, const term_list<Site, T, Terms...>& list) {
  auto weights = list.weights();
  for (T& x : weights) x *= w;
  return term_list<Site, T, Terms...>(weights, list.members());
}

template <class Site, class T, class... A, class... B>
auto fuse(const term_list<Site, T, A...>& a, const term_list<Site, T, B...>& b) {
  const auto left = a.weights();
  const auto right = b.weights();
  std::array<T, sizeof...(A) + sizeof...(B)> weights{};
  std::copy(right.begin(), right.end(), std::copy(left.begin(), left.end(), weights.begin()));
  return term_list<Site, T, A..., B...>(weights, concatenate(a.members(), b.members()));
}

template <class L, class H>
auto make_objective(L l, H h, layers compares) {
  return objective<L, H>{l, h, compares};
}
}  // namespace detail

}  // namespace distil_xlstm::loss
