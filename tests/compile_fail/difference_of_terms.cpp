// expect: loss: a - b: terms are summed with weights; write a + -1.0 * b
#include <distil_xlstm/loss/expression.hpp>

namespace dx = distil_xlstm;

using namespace dx::loss;

#if defined(EXPECT_FAILURE)
void f() { cross_entropy() - kl(2); }
#else
void f() { cross_entropy() + -1.0 * kl(2); }
#endif
