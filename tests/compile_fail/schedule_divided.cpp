// expect: schedule: schedules have +, - and *; write 0.5 * s for s / 2
#include <distil_xlstm/schedule/arithmetic.hpp>
#include <distil_xlstm/schedule/linear.hpp>

namespace dx = distil_xlstm;

constexpr dx::schedule::linear s{4.0, 1.0};

#if defined(EXPECT_FAILURE)
void f() { s / 2; }
#else
void f() { 0.5 * s; }
#endif
