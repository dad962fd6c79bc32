// expect: xlstm_large<T, D>: T is float or double, and D a device; write xlstm_large<float, device::cpu>
#include <distil_xlstm/device/cpu.hpp>
#include <distil_xlstm/model/xlstm_large.hpp>

namespace dx = distil_xlstm;

#if defined(EXPECT_FAILURE)
using model = dx::xlstm_large<int, dx::device::cpu>;
static_assert(sizeof(model));
#else
using model = dx::xlstm_large<float, dx::device::cpu>;
static_assert(sizeof(model));
#endif
