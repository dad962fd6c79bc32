// expect: mixed: at least one kind of block
#include <distil_xlstm/block/linear.hpp>
#include <distil_xlstm/block/mixed.hpp>

namespace dx = distil_xlstm;

#if defined(EXPECT_FAILURE)
dx::mixed<> layer;
#else
dx::mixed<dx::linear<> > layer;
#endif
