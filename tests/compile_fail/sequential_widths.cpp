// expect: a block's width_out must equal the next block's width_in
#include <distil_xlstm/block/linear.hpp>
#include <distil_xlstm/block/sequential.hpp>

namespace dx = distil_xlstm;

#if defined(EXPECT_FAILURE)
dx::sequential<dx::linear<8, 16>, dx::linear<8, 8>> stack;
#else
dx::sequential<dx::linear<8, 16>, dx::linear<16, 8>> stack;
#endif
