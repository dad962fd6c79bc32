// expect: schedule: schedules have no sign; write -1 * s for -s
#include <distil_xlstm/schedule/arithmetic.hpp>
#include <distil_xlstm/schedule/linear.hpp>

namespace dx = distil_xlstm;

constexpr dx::schedule::linear s{4.0, 1.0};

#if defined(EXPECT_FAILURE)
void f() { -s; }
#else
void f() { -1 * s; }
#endif
