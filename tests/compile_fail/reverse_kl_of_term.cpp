// expect: loss::reverse_kl(T): T is a number or a schedule; write reverse_kl(2.0)
#include <distil_xlstm/loss/expression.hpp>

namespace dx = distil_xlstm;

using namespace dx::loss;

#if defined(EXPECT_FAILURE)
const auto e = reverse_kl(cross_entropy());
#else
const auto e = reverse_kl(2);
#endif
