// expect: weight_memory<B, T, D>: B is a block, T float or double, and D a device; write
#include <distil_xlstm/block/linear.hpp>
#include <distil_xlstm/device/cpu.hpp>
#include <distil_xlstm/model/memory.hpp>

namespace dx = distil_xlstm;

#if defined(EXPECT_FAILURE)
using memory = dx::weight_memory<dx::linear<>, dx::device::cpu, float>;
static_assert(sizeof(memory));
#else
using memory = dx::weight_memory<dx::linear<>, float, dx::device::cpu>;
static_assert(sizeof(memory));
#endif
