// expect: model<Family, T, D>: Family is a stack or a configuration of one, T float or double, and D a
#include <distil_xlstm/device/cpu.hpp>
#include <distil_xlstm/model/xlstm_7b.hpp>

namespace dx = distil_xlstm;

#if defined(EXPECT_FAILURE)
using model = dx::xlstm_7b<int, dx::device::cpu>;
static_assert(sizeof(model));
#else
using model = dx::xlstm_7b<float, dx::device::cpu>;
static_assert(sizeof(model));
#endif
