// expect: residual: x + inner(x) needs an inner block whose width_out is its width_in
#include <distil_xlstm/block/linear.hpp>
#include <distil_xlstm/block/residual.hpp>

namespace dx = distil_xlstm;

#if defined(EXPECT_FAILURE)
dx::residual<dx::linear<8, 16>> layer;
#else
dx::residual<dx::linear<8, 8>> layer;
#endif
