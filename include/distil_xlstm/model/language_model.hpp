#pragma once

#include <string_view>
#include <utility>
#include <variant>

#include <distil_xlstm/block/mixed.hpp>
#include <distil_xlstm/model/linearised.hpp>
#include <distil_xlstm/model/llama.hpp>
#include <distil_xlstm/model/model.hpp>
#include <distil_xlstm/model/xlstm.hpp>
#include <distil_xlstm/model/xlstm_7b.hpp>

namespace distil_xlstm {

/// Any of the families that files hold, chosen when the program runs.
struct any_config {
  /// The families' stacks, one of them.
  using stack_type = mixed<xlstm_stack, llama_stack, xlstm_7b_stack, linearised_stack>;
  /// The whole configuration.
  std::variant<xlstm_config, llama_config, xlstm_7b_config, linearised_config> family;
  /// @{
  /// The family's own.
  index vocabulary, width;
  bool tied;
  /// @}
  double logit_cap = 0;  ///< soft cap of the logits; 0: none
  index context = 0;     ///< tokens that a transformer was trained to see; 0: any, or not known
  /// @{
  /// What the family's files call the tensors: see `llama_config`.
  std::string_view prefix, embedding_name, head_name;
  /// @}

  /// Of one family; implicit, so that its configuration does where any is taken.
  template <class Config>
  any_config(Config config)
      : family(config),
        vocabulary(config.vocabulary),
        width(config.width),
        tied(config.tied),
        prefix(config.prefix),
        embedding_name(config.embedding_name),
        head_name(config.head_name) {
    if constexpr (requires { config.logit_cap; }) logit_cap = config.logit_cap;
    if constexpr (requires { config.context; }) context = config.context;
  }
  /// The family's stack. Throws `error` as that does.
  template <class Stack = stack_type>
  Stack stack() const;
  /// As the family does.
  void identify(fnv_hash& hash) const;
};

/// A frozen model of any family, for programs that take any: one type, whatever the file. `load_language_model`
/// reads one.
template <class T, class D>
using language_model = model<any_config, T, D, frozen>;

}  // namespace distil_xlstm

#ifdef DISTIL_XLSTM_COMPILED
namespace distil_xlstm {
extern template any_config::stack_type any_config::stack() const;
}  // namespace distil_xlstm
#endif
#ifndef DISTIL_XLSTM_COMPILED
#include <distil_xlstm/model/language_model.ipp>
#endif
