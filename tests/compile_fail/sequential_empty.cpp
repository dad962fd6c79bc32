// expect: sequential: at least one block
#include <distil_xlstm/block/linear.hpp>
#include <distil_xlstm/block/sequential.hpp>

namespace dx = distil_xlstm;

#if defined(EXPECT_FAILURE)
dx::sequential<> stack;
#else
dx::sequential<dx::linear<> > stack;
#endif
