// expect: extent: a static size must not be negative; write dynamic
#include <distil_xlstm/core/extent.hpp>

namespace dx = distil_xlstm;

#if defined(EXPECT_FAILURE)
dx::extent<-8> width;
#else
dx::extent<dx::dynamic> width = 8;
#endif
