// expect: model<Family, T, D>: Family is a stack or a configuration of one, T float or double, and D a
#include <distil_xlstm/block/linear.hpp>
#include <distil_xlstm/block/stack.hpp>
#include <distil_xlstm/device/cpu.hpp>
#include <distil_xlstm/model/model.hpp>

namespace dx = distil_xlstm;

using layers = dx::stack<dx::linear<8, 8>>;
#if defined(EXPECT_FAILURE)
using own = dx::model<layers, dx::device::cpu, float>;
#else
using own = dx::model<layers, float, dx::device::cpu>;
#endif
static_assert(sizeof(own));
