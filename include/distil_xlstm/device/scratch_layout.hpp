#pragma once

#include <array>

#include <distil_xlstm/core/layout.hpp>

namespace distil_xlstm {

namespace detail {
template <class T, class F>
index size_of(const F& describe) {
  layout<T> measure;
  describe(measure);
  return measure.size();
}
template <class T, class D, class F>
class scratch_layout {
  decltype(std::declval<D&>().template scratch<T>(index{})) memory_;
  layout<T> bound_;

 public:
  decltype(std::declval<const F&>()(std::declval<layout<T>&>())) views;
  scratch_layout(D& d, const F& describe)
      : memory_(d.template scratch<T>(size_of<T>(describe))), bound_(memory_.data()), views(describe(bound_)) {}
};
}  // namespace detail

/// Temporary memory as a description lays it out, as weights and tapes are: `describe(l)` takes tensors from a
/// layout<T> and returns what binds to them, here the member `views`. The memory is on lease as long as the
/// object lives; leases end in the reverse order of their beginnings.
template <class T, class D, class F>
detail::scratch_layout<T, D, F> make_scratch(D& d, const F& describe) {
  return {d, describe};
}
/// Matrices of so many rows, one of each width, in that order.
template <class T, class D, class... Widths>
auto scratch_matrices(D& d, index rows, Widths... widths) {
  return make_scratch<T>(d, [=](auto& l) { return std::array{l.matrix("", rows, widths)...}; });
}

}  // namespace distil_xlstm
