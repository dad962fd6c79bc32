// expect: residual<Inner>: Inner is no block; give it params, state, tape, forward, backward, width_in and
#include <distil_xlstm/block/residual.hpp>

namespace dx = distil_xlstm;

/// y = 2 x; the backward is there, or forgotten.
template <bool Backward>
struct scaled {
  dx::index width = 8;
  dx::index width_in() const { return width; }
  dx::index width_out() const { return width; }
  template <class L>
  dx::no_state params(L&) const {
    return {};
  }
  template <class L>
  dx::no_state state(L&) const {
    return {};
  }
  template <class L>
  dx::no_state tape(L&, dx::sequence_view) const {
    return {};
  }
  template <class D, class P, class S, class K, class T>
  void forward(D&, dx::sequence_view, const P&, const S&, const K&, dx::matrix_view<const T> x,
               dx::matrix_view<T> y) const {
    for (dx::index i = 0; i < x.size(); ++i) y.data[i] = 2 * x.data[i];
  }
  template <class D, class P, class G, class K, class T>
  requires Backward void backward(D&, dx::sequence_view, const P&, const G&, const K&, dx::matrix_view<const T>,
                                  dx::matrix_view<const T> dy, dx::matrix_view<T> dx) const {
    for (dx::index i = 0; i < dy.size(); ++i) dx.data[i] = 2 * dy.data[i];
  }
};

#if defined(EXPECT_FAILURE)
dx::residual<scaled<false>> layer;
#else
dx::residual<scaled<true>> layer;
#endif
