// expect: residual<Inner>: Inner is no block; give it params, state, tape, forward, backward, width_in and
#include <distil_xlstm/block/linear.hpp>
#include <distil_xlstm/block/residual.hpp>

namespace dx = distil_xlstm;

/// A function, where a block is asked for.
struct relu {
  template <class T>
  T operator()(T x) const {
    return x > 0 ? x : 0;
  }
};

#if defined(EXPECT_FAILURE)
dx::residual<relu> layer;
#else
dx::residual<dx::linear<> > layer;
#endif
