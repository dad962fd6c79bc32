// expect: repeat: the count must be positive, or dynamic
#include <distil_xlstm/block/linear.hpp>
#include <distil_xlstm/block/repeat.hpp>

namespace dx = distil_xlstm;

#if defined(EXPECT_FAILURE)
dx::repeat<0, dx::linear<8, 8>> stack;
#else
dx::repeat<2, dx::linear<8, 8>> stack;
#endif
