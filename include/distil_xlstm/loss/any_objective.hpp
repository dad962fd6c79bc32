#pragma once

#include <array>
#include <cstddef>
#include <string_view>
#include <utility>

#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/loss/alignment_term.hpp>
#include <distil_xlstm/loss/any_logits_term.hpp>
#include <distil_xlstm/loss/objective.hpp>
#include <distil_xlstm/schedule/any.hpp>

namespace distil_xlstm::loss {

/// An alignment in an objective that is chosen when the program runs: it is logged by its term's name, frobenius,
/// cosine or mse, where it has a value.
template <class T>
struct any_hidden_term : alignment_term<T> {
  bool has_value = false;  ///< else it is not logged
  /// As the concept `HiddenTerm` says.
  std::string_view label() const { return has_value ? term_name_of(this->form) : std::string_view(); }
};

/// An objective whose terms, weights and parameters are chosen when the program runs: an objective expression as
/// any other, compiled once for all of them.
///
///     any_objective o;  // 0.5*kl(T=2) + 0.2:0.4*ce + 0.1*frobenius(average)
///     o.add({.kind = logits_kind_named("kl"), .weight = 0.5, .temperature = 2.0});
///     o.add({.kind = logits_kind_named("ce"), .weight = schedule::linear{0.2, 0.4}});
///     o.add({.form = alignment::average, .weight = 0.1});
///     trainer run(device, student, windows, teacher, o, options);
///
/// What is logged goes by the terms' names, several of one kind by kl_1, kl_2 and so on, in their order; a term that
/// is not computed at a step, since it compares with a teacher that no weight asks for then, is not logged.
struct any_objective {
  using is_objective_expression = void;  ///< as the concept `ObjectiveExpression` says

  /// A term of logits. A plain number stands for a constant schedule.
  struct logits_entry {
    logits_kind kind = logits_kind::none;     ///< which term
    schedule::any<double> weight = 1.0;       ///< what it is multiplied by in the sum
    schedule::any<double> temperature = 1.0;  ///< of all but ce
    double share = 0.5;                       ///< beta of jsd, a of the skew divergences
    index k = 0;                              ///< of top_k_kl
    tail rest = tail::one_class;              ///< of top_k_kl
  };
  /// The alignment.
  struct hidden_entry {
    alignment form = alignment::none;    ///< which term, and what it compares
    schedule::any<double> weight = 1.0;  ///< what it is multiplied by in the sum
  };
  static constexpr std::size_t most_logits = 4;  ///< terms of logits that there may be

  std::array<logits_entry, most_logits> logits{};  ///< the first `count` of them are terms
  std::size_t count = 0;                           ///< terms of logits
  hidden_entry hidden{};                           ///< form `none`: there is no alignment

  /// @{
  /// One term more. Throws `error` where its parameters are out of range, or there are as many as can be:
  /// most_logits, and one alignment.
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
            term_name_of(e.form), " is one more");
    require(e.form != alignment::none, "loss: an alignment of no form");
    hidden = e;
  }
  /// @}
  /// What entry i is logged by.
  std::string_view name(std::size_t i) const { return name_of(logits[i].kind, number(i)); }

  /// As the concept `ObjectiveExpression` says. Throws `error` where a temperature is not positive.
  template <class T = float>
  auto at(const schedule::clock& c) const {
    return [&, this ]<std::size_t... I>(std::index_sequence<I...>) {
      const std::array<T, most_logits> weights{weight_of<T>(logits[I].weight, I < count, c)...};
      const bool asks = ((weights[I] != T(0) && logits[I].kind > logits_kind::ce) || ...);
      const T alignment_weight = weight_of<T>(hidden.weight, hidden.form != alignment::none, c);
      const term_list logits_terms = list_of_terms<logits_site, T>(weights, term_of<T>(I, asks, c)...);
      const term_list hidden_terms = list_of_terms<hidden_site, T>(
          {alignment_weight}, any_hidden_term<T>{{hidden.form}, alignment_weight != T(0)});
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
  /// Which of its kind entry i is, 1 and above; 0: the only one.
  int number(std::size_t i) const {
    int before = 0, all = 0;
    for (std::size_t j = 0; j < count; ++j)
      if (logits[j].kind == logits[i].kind) ++all, before += j < i;
    return all > 1 ? before + 1 : 0;
  }
  template <class T>
  any_logits_term<T> term_of(std::size_t i, bool asks_teacher, const schedule::clock& c) const {
    const logits_entry& e = logits[i];
    const bool has_value = e.kind == logits_kind::ce || asks_teacher;
    const double t = e.kind == logits_kind::ce ? 1.0 : e.temperature.at(c);
    require(t > 0, "loss: a temperature of ", t, " at step ", c.step, " is not positive");
    return {e.kind, static_cast<T>(t), static_cast<T>(e.share), e.k, e.rest, has_value ? number(i) : -1};
  }
};

}  // namespace distil_xlstm::loss
