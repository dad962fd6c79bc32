#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/core/extent.hpp>
#include <distil_xlstm/core/rng.hpp>
#include <distil_xlstm/math/softmax_weight.hpp>

namespace distil_xlstm {

/// How the next token is chosen from softmax(logits / temperature).
struct sampling {
  double temperature = 1;  ///< 0: the likeliest token, always
  index top_k = 0;         ///< among the k likeliest; 0: all
  double top_p = 1;        ///< among the likeliest that together reach this probability (nucleus sampling)
  std::uint64_t seed = 0;  ///< of the random numbers

  /// Always the likeliest.
  bool greedy() const { return temperature == 0 || top_k == 1; }
  /// Any token may be chosen, each by its probability.
  bool plain() const { return !greedy() && top_k == 0 && top_p == 1; }
};

/// Chooses tokens. The same seed and logits give the same choices.
class sampler {
 public:
  /// Throws `error` naming the number that makes no sense.
  explicit sampler(sampling how = {}) : how_(how), random_(how.seed) {
    require(how.temperature >= 0 && std::isfinite(how.temperature), "sampling: a temperature of ",
            how.temperature, " is not possible");
    require(how.top_k >= 0, "sampling: the ", how.top_k, " likeliest tokens are not possible");
    require(how.top_p > 0 && how.top_p <= 1, "sampling: top-p must be above 0 and at most 1, not ", how.top_p);
  }

  /// What it was made with.
  const sampling& how() const { return how_; }
  /// @{
  /// Where its random numbers have come to; a sampler that is given it goes on from there.
  std::uint64_t random_state() const { return random_.state(); }
  void random_state(std::uint64_t state) { random_ = rng(state); }
  /// @}
  /// The next of the uniform numbers in [0, 1) that choices take one by one, for a choice that is made
  /// elsewhere (`choose_tokens`).
  double draw() { return random_.uniform(); }

  /// Throws `numeric_error` when no logit is a finite number.
  template <class T>
  std::int32_t operator()(std::span<const T> logits) {
    const auto k = static_cast<std::size_t>(how_.greedy() ? 1 : how_.top_k);
    if (k > 0)
      rank(logits, k);
    else
      list(logits);
    if (how_.greedy()) return ranked_.front().token;
    double highest = -std::numeric_limits<double>::infinity(), sum = 0;
    for (const candidate& c : ranked_) highest = std::max(highest, c.number);
    for (candidate& c : ranked_) sum += c.number = weight(c.number - highest);
    if (k == 0 && how_.top_p < 1) {
      // So many of the likeliest as hold the nucleus, which is small as a rule.
      double reached = 0;
      for (std::size_t most = 256, all = ranked_.size(); reached < how_.top_p * sum; most *= 8) {
        rank(logits, most);
        reached = 0;
        for (candidate& c : ranked_) reached += c.number = weight(c.number - highest);
        if (ranked_.size() == all) break;
      }
    }
    std::size_t keep = ranked_.size();
    if (how_.top_p < 1) {
      double reached = 0;
      std::size_t n = 0;
      while (n < keep && reached < how_.top_p * sum) reached += ranked_[n++].number;
      keep = std::max<std::size_t>(1, n), sum = reached;
    }
    double left = draw() * sum;
    std::size_t chosen = 0;
    while (chosen + 1 < keep && (left -= ranked_[chosen].number) >= 0) ++chosen;
    // Rounding may lead beyond the last that weighs something.
    while (ranked_[chosen].number <= 0) --chosen;
    return ranked_[chosen].token;
  }

 private:
  /// A token and its logit, or then its weight.
  struct candidate {
    double number;
    std::int32_t token;
    /// Whether it is likelier; the first of equals is.
    bool operator<(const candidate& other) const {
      return number > other.number || (number == other.number && token < other.token);
    }
  };
  double weight(double below) const { return math::softmax_weight(below, how_.temperature); }

  /// ranked_ = all tokens whose logits are finite, in their order.
  template <class T>
  void list(std::span<const T> logits) {
    ranked_.clear();
    for (std::size_t i = 0; i < logits.size(); ++i)
      if (const double x = static_cast<double>(logits[i]); std::isfinite(x))
        ranked_.push_back({x, static_cast<std::int32_t>(i)});
    require_some();
  }
  /// ranked_ = the k likeliest of them, the likeliest first.
  template <class T>
  void rank(std::span<const T> logits, std::size_t k) {
    k = std::min(k, logits.size());
    ranked_.clear();
    // Once there are k, only a number above the least of them is looked at; of twice as many the k largest stay.
    double least = -std::numeric_limits<double>::infinity();
    const auto keep_largest = [&] {
      const auto end = ranked_.begin() + static_cast<std::ptrdiff_t>(k);
      std::nth_element(ranked_.begin(), end - 1, ranked_.end());
      ranked_.erase(end, ranked_.end());
      least = ranked_.back().number;
    };
    for (std::size_t i = 0; i < logits.size(); ++i) {
      const double x = static_cast<double>(logits[i]);
      if (!(x > least) || !std::isfinite(x)) continue;
      ranked_.push_back({x, static_cast<std::int32_t>(i)});
      if (ranked_.size() >= 2 * k) keep_largest();
    }
    if (ranked_.size() > k) keep_largest();
    std::sort(ranked_.begin(), ranked_.end());
    require_some();
  }
  void require_some() const {
    if (ranked_.empty()) throw numeric_error("sampling: no logit is a finite number");
  }

  sampling how_;
  rng random_;
  std::vector<candidate> ranked_;
};

}  // namespace distil_xlstm
