// expect: repeat: a block that follows itself needs a width_out that is its width_in
#include <distil_xlstm/block/linear.hpp>
#include <distil_xlstm/block/repeat.hpp>

namespace dx = distil_xlstm;

#if defined(EXPECT_FAILURE)
dx::repeat<2, dx::linear<8, 16>> twice;
#else
dx::repeat<1, dx::linear<8, 16>> once;
#endif
