#pragma once

#include <algorithm>

#include <distil_xlstm/device/cpu/machine.hpp>
#include <distil_xlstm/op/sampling/op.hpp>

namespace distil_xlstm::device {

namespace detail {
/// The sum of `weigh_spans` for a whole span, in packs.
template <class T>
double weigh_span(const distil_xlstm::detail::drawn_tokens<T>& t, index r, index first) {
  using V = pack<double>;
  const T* logits = t.logits.row(r) + first;
  const V highest(static_cast<double>(t.highest[r])), temperature(t.temperature[r]), lowest(708);
  V sum(0);
  for (index c = 0; c < t.span; c += V::width) {
    const V below = math::lanes<V>([&](index i) { return static_cast<double>(logits[c + i]); }) - highest;
    // What is not finite has no part. Nor has what is below exp(-708), about the least normal number: exp of packs
    // stays above 0 whatever it is given, and a token of probability 0 could be drawn.
    const V x = below / temperature;
    sum += select_positive(lowest - abs(x), exp(x), V(0));
  }
  return sum.v.sum();
}
}  // namespace detail

/// exp of a whole vocabulary in packs: by itself each would be a tenth of a small model's token.
template <Precision P, class T>
void weigh_drawn_spans(basic_cpu<P>& device, const distil_xlstm::detail::drawn_tokens<T>& t) {
  constexpr index block = 64;  // spans worth a task
  const index spans = t.span_count(), all = t.logits.rows * spans;
  device.tasks((all + block - 1) / block, [&](index part, cpu_base::worker&) {
    for (index i = part * block, end = std::min(all, i + block); i < end; ++i) {
      const index r = i / spans, first = i % spans * t.span;
      if (t.draws(r) && first + t.span <= t.logits.cols)
        t.spans[i] = detail::weigh_span(t, r, first);
      else
        distil_xlstm::detail::weigh_spans<T>{t}(i);
    }
  });
}

}  // namespace distil_xlstm::device
