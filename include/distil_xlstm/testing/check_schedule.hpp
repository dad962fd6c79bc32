#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

#include <distil_xlstm/schedule/arithmetic.hpp>
#include <distil_xlstm/testing/law_report.hpp>

namespace distil_xlstm::testing {

/// Tries the laws of Schedule over a whole run of `total_steps` steps, and beyond its end: values are numbers
/// from `low` to `high`, the same whenever they are asked for, and arithmetic is that of the values.
template <Schedule S>
law_report check_schedule(const S& s, double low, double high, index total_steps = 300,
                          index steps_per_epoch = 50) {
  static_assert(std::is_trivially_copyable_v<S>);
  using T = typename S::scalar;
  const double rounding = 8 * static_cast<double>(std::numeric_limits<T>::epsilon()) *
                          std::max({1.0, std::abs(low), std::abs(high)});
  // A schedule of one's own lives where its arithmetic is not found by itself.
  using schedule::operator-, schedule::operator+, schedule::operator*;
  const auto back = 1 - (1 - s);
  const auto product = s * s;
  const auto sum = s + 2 * s;
  const auto difference = s - 0.25;
  for (const index epoch : {index{0}, steps_per_epoch})
    for (index step = 0; step <= total_steps + 2; ++step) {
      const schedule::clock c{step, total_steps, epoch};
      const T v = s.at(c);
      const auto value = static_cast<double>(v);
      const auto broken = [&](const char* law, double error) {
        return detail::judge(law, error, rounding, "step ", step, " of ", total_steps, ", value ", value);
      };
      const auto off = [](T a, T b) { return std::abs(static_cast<double>(a) - static_cast<double>(b)); };
      for (const law_report& r :
           {broken("a schedule is a function of the clock", off(S(s).at(c), v) > 0 ? 1.0 : 0.0),
            broken("values lie between their bounds", std::max({low - value, value - high, 0.0})),
            broken("1 - (1 - s) is s", off(back.at(c), v)),
            broken("arithmetic is that of the values",
                   std::max({off(product.at(c), v * v), off(sum.at(c), v + T(2) * v),
                             off(difference.at(c), v - T(0.25))}))})
        if (!r.ok()) return r;
    }
  return {};
}

}  // namespace distil_xlstm::testing
