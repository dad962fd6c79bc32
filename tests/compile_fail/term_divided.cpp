// expect: loss: terms are not divided; write 0.5 * kl(2.0) for kl(2.0) / 2
#include <distil_xlstm/loss/expression.hpp>

namespace dx = distil_xlstm;

using namespace dx::loss;

#if defined(EXPECT_FAILURE)
void f() { kl(2) / 2; }
#else
void f() { 0.5 * kl(2); }
#endif
