#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>

#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/core/extent.hpp>

namespace distil_xlstm {

/// What one step of training did.
struct step_metrics {
  /// What one term of the objective came to.
  struct term {
    std::string_view name;  ///< as the log calls it: "ce", "kl"
    double value;           ///< mean over tokens (logits) or as the alignment defines it; unweighted
  };
  index step = 0;        ///< steps finished, this one included
  index epoch = 0;       ///< in which the step's windows are, from 0
  index tokens = 0;      ///< scored in this step
  double total = 0;      ///< the weighted objective
  double grad_norm = 0;  ///< of all gradients together, before clipping
  double lr = 0;         ///< the learning rate of this step
  bool skipped = false;  ///< the loss or a gradient was not finite: the weights stayed
  bool empty =
      false;  ///< no token had a target of its own document: there was nothing to learn, the weights stayed

  /// The terms in the order of the objective; valid as long as this.
  std::span<const term> terms() const { return {terms_.data(), count_}; }
  /// A term by its name: `metrics["kl"]`. Throws `error` that lists the names there are.
  double operator[](std::string_view name) const {
    for (const term& t : terms())
      if (t.name == name) return t.value;
    std::string known;
    for (const term& t : terms()) (known += known.empty() ? "" : ", ") += t.name;
    fail("metrics: no term is called '", name, "' (", known, " are); the weighted objective is `.total`");
  }
  /// One more term, or more of one that is there; at most 16 are kept. A name that is empty stands for nothing.
  void add(std::string_view name, double value) {
    if (name.empty()) return;
    for (term& t : std::span(terms_.data(), count_))
      if (t.name == name) {
        t.value += value;
        return;
      }
    if (count_ < terms_.size()) terms_[count_++] = {name, value};
  }

 private:
  std::array<term, 16> terms_{};
  std::size_t count_ = 0;
};

/// Seconds that the parts of steps took.
struct step_times {
  /// @{
  /// `teacher`: its signals; `objective`: logits, losses and the gradients of hidden states; `backward`: with the
  /// norm of all gradients; `optimiser`: AdamW.
  double teacher = 0, forward = 0, objective = 0, backward = 0, optimiser = 0;
  /// @}
  double exchange = 0;  ///< with other ranks, and waiting for them
};

}  // namespace distil_xlstm
