#pragma once

#include <distil_xlstm/device/step_scalars.hpp>
#include <distil_xlstm/loss/term_list.hpp>

namespace distil_xlstm::loss {

/// What changes from step to step in a site's terms.
template <class List>
struct term_coefficients {
  List term;                     ///< a `term_list` with the step's weights and temperatures
  typename List::scalar factor;  ///< multiplies gradients, not values
};

namespace detail {
/// A site's terms as a step has them: what `head` and `align` take. `Scalars` points to the coefficients.
template <class List, class Scalars>
struct step_term {
  using site = typename List::site;
  using scalar = typename List::scalar;
  static constexpr index terms = List::terms;

  Scalars scalars;
  term_facts known;

  term_facts facts() const { return known; }
  DISTIL_XLSTM_HD const List& operator()() const { return scalars->term; }
  DISTIL_XLSTM_HD scalar factor() const { return scalars->factor; }
  /// The same with its numbers at hand: what a kernel begins with.
  DISTIL_XLSTM_HD step_term<List, by_value<term_coefficients<List>>> at_hand() const {
    return {{*scalars}, known};
  }
};
}  // namespace detail

/// The terms with the coefficients that `host` has now, as `head` and `align` take them. A device whose memory is
/// not the host's reads them from `there`, a copy of `host` in its memory: so the same calls do for every step of
/// a schedule, as long as facts() stay.
template <class D, class List>
constexpr auto step_term(const term_coefficients<List>& host, const term_coefficients<List>* there) {
  const auto scalars = step_scalars_of<D>(host, there);
  return detail::step_term<List, std::remove_const_t<decltype(scalars)>>{scalars, host.term.facts()};
}

}  // namespace distil_xlstm::loss
