// expect: model<Family, T, D>: Family is a stack or a configuration of one, T float or double, and D a
#include <distil_xlstm/device/cpu.hpp>
#include <distil_xlstm/model/language_model.hpp>

namespace dx = distil_xlstm;

#if defined(EXPECT_FAILURE)
using model = dx::language_model<float, float>;
static_assert(sizeof(model));
#else
using model = dx::language_model<float, dx::device::cpu>;
static_assert(sizeof(model));
#endif
