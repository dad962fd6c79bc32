// expect: a block's width_out must equal the next block's width_in
#include <distil_xlstm/block/norm.hpp>
#include <distil_xlstm/block/sequential.hpp>
#include <distil_xlstm/block/slstm.hpp>

namespace dx = distil_xlstm;

#if defined(EXPECT_FAILURE)
dx::sequential<dx::layer_norm<32>, dx::basic_slstm<64, 4>> layer;
#else
dx::sequential<dx::layer_norm<64>, dx::basic_slstm<64, 4>> layer;
#endif
