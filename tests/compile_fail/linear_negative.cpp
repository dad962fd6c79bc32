// expect: extent: a static size must not be negative; write dynamic
#include <distil_xlstm/block/linear.hpp>

namespace dx = distil_xlstm;

#if defined(EXPECT_FAILURE)
dx::linear<4, -2> map;
#else
dx::linear<4, dx::dynamic> map;
#endif
