#pragma once

#include <array>
#include <cstddef>
#include <utility>

#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/loss/alignment_term.hpp>
#include <distil_xlstm/loss/any_logits_term.hpp>
#include <distil_xlstm/loss/objective.hpp>
#include <distil_xlstm/schedule/any.hpp>

namespace distil_xlstm::loss {

/// An objective whose terms, weights and parameters are chosen when the program runs: an objective expression as
/// any other, compiled once for all of them.
///
///   any_objective o;                                                       // 0.5*kl(T=2) + 0.4*ce + 0.1*frobenius(average)
///   o.add({.kind = logits_kind_named("kl"), .weight = 0.5, .temperature = 2.0});
///   o.add({.kind = logits_kind_named("ce"), .weight = schedule::linear{0.2, 0.4}});
///   o.add({.form = alignment::average, .weight = 0.1});
///   trainer run(device, student, windows, teacher, o, options);
///
/// What is logged goes by the terms' names; values of terms of one name are added.
struct any_objective {
  using is_objective_expression = void;

  struct logits_entry {
    logits_kind kind = logits_kind::none;
    schedule::any<double> weight = 1.0;
    schedule::any<double> temperature = 1.0;  ///< of all but ce
    double share = 0.5;                       ///< beta of jsd, a of the skew divergences
    index k = 0;                              ///< of top_k_kl
    tail rest = tail::one_class;              ///< of top_k_kl
  };
  struct hidden_entry {
    alignment form = alignment::none;
    schedule::any<double> weight = 1.0;
  };
  static constexpr std::size_t most_logits = 4;

  std::array<logits_entry, most_logits> logits{};
  std::size_t count = 0;
  hidden_entry hidden{};

  /// One term more. Throws `error` where its parameters are out of range, or there are as many as can be.
  void add(const logits_entry& e) {
    const auto name = name_of(e.kind);
    require(e.kind != logits_kind::none, "loss: a term of no kind");
    require(count < most_logits, "loss: an objective chosen at run time has at most ", most_logits,
            " terms of logits; ", name, " is one more");
    const bool mixes =
        e.kind == logits_kind::jsd || e.kind == logits_kind::skew_kl || e.kind == logits_kind::skew_reverse_kl;
    require(!mixes || (e.share > 0 && e.share < 1), "loss::", name, ": ", e.share, " is not between 0 and 1");
    require(e.kind != logits_kind::top_k_kl || e.k > 0, "loss::top_k_kl: k is ", e.k, ", not positive");
    logits[count++] = e;
  }
  void add(const hidden_entry& e) {
    require(hidden.form == alignment::none, "loss: an objective chosen at run time has one alignment; ",
            name_of(e.form), " is one more");
    hidden = e;
  }

  template <class T = float>
  auto at(const schedule::clock& c) const {
    return [&, this ]<std::size_t... I>(std::index_sequence<I...>) {
      const term_list logits_terms = list_of_terms<logits_site, T>(
          {weight_of<T>(logits[I].weight, I < count, c)...}, term_of<T>(logits[I], c)...);
      const term_list hidden_terms = list_of_terms<hidden_site, T>(
          {weight_of<T>(hidden.weight, hidden.form != alignment::none, c)}, alignment_term<T>{hidden.form});
      return detail::make_objective(logits_terms, hidden_terms, layers_of(hidden.form));
    }
    (std::make_index_sequence<most_logits>{});
  }

 private:
  template <class Site, class T, class... Terms>
  static auto list_of_terms(std::array<T, sizeof...(Terms)> weights, Terms... terms) {
    return term_list<Site, T, Terms...>(weights, detail::make_tuple(terms...));
  }
  template <class T>
  static T weight_of(const schedule::any<double>& weight, bool there, const schedule::clock& c) {
    return there ? static_cast<T>(weight.at(c)) : T(0);
  }
  template <class T>
  static any_logits_term<T> term_of(const logits_entry& e, const schedule::clock& c) {
    const double t = e.kind == logits_kind::ce ? 1.0 : e.temperature.at(c);
    require(t > 0, "loss: a temperature of ", t, " at step ", c.step, " is not positive");
    return {e.kind, static_cast<T>(t), static_cast<T>(e.share), e.k, e.rest};
  }
};

}  // namespace distil_xlstm::loss
