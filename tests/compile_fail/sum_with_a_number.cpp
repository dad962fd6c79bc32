// expect: loss: a + b: only terms are summed; write 0.5 * kl(2.0) + 0.5 * cross_entropy()
#include <distil_xlstm/loss/expression.hpp>

namespace dx = distil_xlstm;

using namespace dx::loss;

#if defined(EXPECT_FAILURE)
void f() { cross_entropy() + 0.1; }
#else
void f() { cross_entropy() + 0.1 * mse(); }
#endif
