// expect: mlstm: the heads share the inner width equally; write an Inner that Heads divides
#include <distil_xlstm/block/mlstm.hpp>

namespace dx = distil_xlstm;

#if defined(EXPECT_FAILURE)
dx::basic_mlstm<64, 3, 128> cell;
#else
dx::basic_mlstm<64, 4, 128> cell;
#endif
