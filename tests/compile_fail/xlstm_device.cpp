// expect: xlstm<T, D>: T is float or double, and D a device; write xlstm<float, device::cpu>
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
