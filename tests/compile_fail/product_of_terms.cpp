// expect: term * weight: a weight stands on the left and terms have no product; write 0.5 * kl(2.0)
#include <distil_xlstm/loss/expression.hpp>

namespace dx = distil_xlstm;

using namespace dx::loss;

#if defined(EXPECT_FAILURE)
void f() { cross_entropy() * kl(2); }
#else
void f() { cross_entropy() + kl(2); }
#endif
