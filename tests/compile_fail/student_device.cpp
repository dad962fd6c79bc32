// expect: student<Stack, T, D>: Stack is a block, T float or double, and D a device; write
#include <distil_xlstm/block/linear.hpp>
#include <distil_xlstm/block/stack.hpp>
#include <distil_xlstm/device/cpu.hpp>
#include <distil_xlstm/model/student.hpp>

namespace dx = distil_xlstm;

using layers = dx::stack<dx::linear<8, 8>>;
#if defined(EXPECT_FAILURE)
using own = dx::student<layers, dx::device::cpu, float>;
#else
using own = dx::student<layers, float, dx::device::cpu>;
#endif
static_assert(sizeof(own));
