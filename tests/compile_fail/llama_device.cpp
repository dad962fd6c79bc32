// expect: model<Family, T, D>: Family is a stack or a configuration of one, T float or double, and D a
#include <distil_xlstm/device/cpu.hpp>
#include <distil_xlstm/model/llama.hpp>

namespace dx = distil_xlstm;

#if defined(EXPECT_FAILURE)
using teacher = dx::llama<dx::device::cpu, float>;
static_assert(sizeof(teacher));
#else
using teacher = dx::llama<float, dx::device::cpu>;
static_assert(sizeof(teacher));
#endif
