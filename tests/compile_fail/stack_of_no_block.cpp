// expect: stack<Layer, N>: Layer is no block; give it params, state, tape, forward, backward, width_in
#include <distil_xlstm/block/stack.hpp>

namespace dx = distil_xlstm;

/// A function, where a block is asked for.
struct relu {
  template <class T>
  T operator()(T x) const {
    return x > 0 ? x : 0;
  }
};

#if defined(EXPECT_FAILURE)
dx::stack<relu, 3> layers;
#else
dx::stack<dx::layer_norm<8>, 3> layers;
#endif
