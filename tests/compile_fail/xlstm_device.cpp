// expect: model<Family, T, D>: Family is a stack or a configuration of one, T float or double, and D a
#include <distil_xlstm/device/cpu.hpp>
#include <distil_xlstm/model/xlstm.hpp>

namespace dx = distil_xlstm;

#if defined(EXPECT_FAILURE)
using student = dx::xlstm<int, dx::device::cpu>;
static_assert(sizeof(student));
#else
using student = dx::xlstm<float, dx::device::cpu>;
static_assert(sizeof(student));
#endif
