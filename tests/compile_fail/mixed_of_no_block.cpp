// expect: mixed<A, B, ...>: one of them is no block; give it params, state, tape, forward, backward,
#include <distil_xlstm/block/linear.hpp>
#include <distil_xlstm/block/mixed.hpp>
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
dx::mixed<dx::linear<>, relu> layer;
#else
dx::mixed<dx::linear<>, dx::residual<dx::linear<> > > layer;
#endif
