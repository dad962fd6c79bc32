// expect: weight * term: the weight is a number or a schedule; write 0.5 * kl(2.0)
#include <distil_xlstm/loss/expression.hpp>

namespace dx = distil_xlstm;

using namespace dx::loss;

#if defined(EXPECT_FAILURE)
void f() { "0.5" * cross_entropy(); }
#else
void f() { 0.5 * cross_entropy(); }
#endif
