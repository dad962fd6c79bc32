#pragma once

#include <array>
#include <cstddef>
#include <limits>
#include <string_view>

#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/loss/cross_entropy.hpp>
#include <distil_xlstm/loss/jsd.hpp>
#include <distil_xlstm/loss/kl.hpp>
#include <distil_xlstm/loss/reverse_kl.hpp>
#include <distil_xlstm/loss/skew_kl.hpp>
#include <distil_xlstm/loss/top_k_kl.hpp>
#include <distil_xlstm/loss/tvd.hpp>

namespace distil_xlstm::loss {

/// The terms of logits that a command line names: `ce` is cross_entropy_term, `kl` kl_term and so on; `none` is no
/// term.
enum class logits_kind { none, ce, kl, reverse_kl, jsd, skew_kl, skew_reverse_kl, tvd, top_k_kl };

/// The name that `logits_kind_named` takes: "" of none.
constexpr std::string_view name_of(logits_kind kind) {
  constexpr std::string_view names[] = {
      "", "ce", "kl", "reverse_kl", "jsd", "skew_kl", "skew_reverse_kl", "tvd", "top_k_kl"};
  return names[static_cast<int>(kind)];
}
/// By the names of the enumerators but `none`. Throws `error` on any other.
inline logits_kind logits_kind_named(std::string_view name) {
  for (int i = 1; i <= static_cast<int>(logits_kind::top_k_kl); ++i)
    if (name == name_of(static_cast<logits_kind>(i))) return static_cast<logits_kind>(i);
  fail("the term '", name,
       "' is not known (ce, kl, reverse_kl, jsd, skew_kl, skew_reverse_kl, tvd, top_k_kl are)");
}

namespace detail {
struct numbered_name {
  char text[20] = {};
  std::size_t size = 0;
};
/// kl_1, kl_2, ...: [kind][number], up to 9.
inline constexpr auto numbered_names = [] {
  std::array<std::array<numbered_name, 10>, static_cast<std::size_t>(logits_kind::top_k_kl) + 1> all{};
  for (std::size_t kind = 0; kind < all.size(); ++kind)
    for (std::size_t number = 0; number < all[kind].size(); ++number) {
      auto& name = all[kind][number];
      for (const char c : name_of(static_cast<logits_kind>(kind))) name.text[name.size++] = c;
      name.text[name.size++] = '_';
      name.text[name.size++] = static_cast<char>('0' + number);
    }
  return all;
}();
}  // namespace detail

/// What a term of a kind is logged by: as the `number`-th (1 to 9) of several in a sum, or as the only one (0).
constexpr std::string_view name_of(logits_kind kind, int number) {
  if (number == 0) return name_of(kind);
  const auto& name = detail::numbered_names[static_cast<std::size_t>(kind)][static_cast<std::size_t>(number)];
  return {name.text, name.size};
}

/// A term of logits whose kind is chosen when the program runs; `none` is no term. It folds what its kind needs and
/// no more, and shares folds with others of its temperature.
template <class T>
struct any_logits_term : tempered<T> {
  /// @{
  /// What a fold gives.
  using lse = math::log_sum_exp<T>;
  using mean = math::softmax_mean<T>;
  using sum = math::sum<T>;
  /// @}
  /// @{
  /// As the concept `LogitsTerm` says.
  using second_pass = void;
  static constexpr const char* name = "logits";
  /// @}
  logits_kind kind = logits_kind::none;  ///< which term it is
  T share = 0;                           ///< beta of jsd, a of the skew divergences
  index k = 0;                           ///< of top_k_kl
  tail rest = tail::one_class;           ///< of top_k_kl
  int number = 0;  ///< 1, 2, ... where the sum has several of this kind; -1: it has no value, and is not logged

  any_logits_term() = default;
  /// At temperature t; the others are kind, share, k, rest and number.
  any_logits_term(logits_kind which, T t, T mixture_share, index largest, tail outside, int number_of_kind)
      : tempered<T>(t), kind(which), share(mixture_share), k(largest), rest(outside), number(number_of_kind) {}

  /// @name What every logits term has
  /// @{

  /// As the concept `LogitsTerm` says.
  std::string_view label() const { return number < 0 ? std::string_view() : name_of(kind, number); }
  bool compares() const { return kind > logits_kind::ce; }
  DISTIL_XLSTM_HD index largest() const { return kind == logits_kind::top_k_kl ? k : 0; }
  bool takes(int pass, std::size_t fold) const {
    if (pass > 0) return kind >= logits_kind::jsd && kind <= logits_kind::tvd;
    return fold == 0 ? kind != logits_kind::none : fold == 1 ? compares() : kind == logits_kind::top_k_kl;
  }

  /// Of the student and of the teacher: the k largest, or all; and the others.
  template <class V>
  DISTIL_XLSTM_HD auto folds(V student, V teacher, T kth) const {
    using math::select_positive;
    constexpr T all = -std::numeric_limits<T>::infinity(), unlike = std::numeric_limits<T>::quiet_NaN();
    const bool some = kind == logits_kind::top_k_kl;
    const T parameter = some ? unlike : this->inverse;
    const V out = V(some ? kth : all) - teacher, none = V(T(math::logit_floor));
    const V s = this->logit(student), t = this->logit(teacher);
    const auto named = [&]<class Name>(Name*, V x, V outside) {
      return named_input<Name, V>{select_positive(out, outside, x), parameter};
    };
    const auto gap = named(static_cast<detail::student_below_teacher*>(nullptr), t - s, V(0));
    return fold_list(
        fold<math::softmax_mean>(named(static_cast<detail::student_logit*>(nullptr), s, none), gap),
        fold<math::softmax_mean>(named(static_cast<detail::teacher_logit*>(nullptr), t, none), gap),
        fold<math::log_sum_exp>(select_positive(out, s, none)),
        fold<math::log_sum_exp>(select_positive(out, t, none)));
  }
  template <class V>
  DISTIL_XLSTM_HD auto second_folds(V student, V teacher, T, const mean& s, const mean& t, const lse&,
                                    const lse&) const {
    return divergence([&](const auto& term) { return term.second_folds(student, teacher, s.x, t.x); });
  }
  DISTIL_XLSTM_HD T value(const target_logits<T>& row, T kth, const mean& s, const mean& t, const lse& s_out,
                          const lse& t_out, const sum& f, const sum&) const {
    switch (kind) {
      case logits_kind::none: return T(0);
      case logits_kind::ce: return cross_entropy_term<T>{}.value(row, s.x);
      case logits_kind::kl: return kl_term<T>{}.value(row, s.x, t);
      case logits_kind::reverse_kl: return reverse_kl_term<T>{}.value(row, s, t.x);
      case logits_kind::top_k_kl: return top_k().value(row, kth, s.x, t, s_out, t_out);
      default: return f.total;
    }
  }
  template <class V>
  DISTIL_XLSTM_HD V grad(const target_logits<T>& row, V student, V teacher, T kth, const mean& s, const mean& t,
                         const lse& s_out, const lse& t_out, const sum& f, const sum& slope) const {
    switch (kind) {
      case logits_kind::none: return V(0);
      case logits_kind::ce: return cross_entropy_term<T>{}.grad(row, student, teacher, s.x);
      case logits_kind::kl: return kl_term<T>(this->temperature).grad(row, student, teacher, s.x, t);
      case logits_kind::reverse_kl:
        return reverse_kl_term<T>(this->temperature).grad(row, student, teacher, s, t.x);
      case logits_kind::top_k_kl: return top_k().grad(row, student, teacher, kth, s.x, t, s_out, t_out);
      default:
        return divergence(
            [&](const auto& term) { return term.grad(row, student, teacher, s.x, t.x, f, slope); });
    }
  }
  template <class... R>
  DISTIL_XLSTM_HD T target_grad(const target_logits<T>&, const R&...) const {
    return kind == logits_kind::ce ? T(-1) : T(0);
  }
  /// @}

 private:
  DISTIL_XLSTM_HD top_k_kl_term<T> top_k() const { return {this->temperature, k, rest}; }
  /// f of the term that has a second pass.
  template <class F>
  DISTIL_XLSTM_HD auto divergence(const F& f) const {
    switch (kind) {
      case logits_kind::skew_kl: return f(skew_kl_term<T>(this->temperature, share));
      case logits_kind::skew_reverse_kl: return f(skew_reverse_kl_term<T>(this->temperature, share));
      case logits_kind::tvd: return f(tvd_term<T>(this->temperature));
      default: return f(jsd_term<T>(this->temperature, share));
    }
  }
};

}  // namespace distil_xlstm::loss
