// expect: xlstm_7b<T, D>: T is float or double, and D a device; write xlstm_7b<float, device::cpu>
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
