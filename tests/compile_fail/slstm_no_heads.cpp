// expect: slstm: the heads share the width equally; write a width that Heads divides
#include <distil_xlstm/block/slstm.hpp>

namespace dx = distil_xlstm;

#if defined(EXPECT_FAILURE)
dx::basic_slstm<64, 0> cell;
#else
dx::basic_slstm<64, 1> cell;
#endif
