// expect: temperature
#include <distil_xlstm/loss/expression.hpp>

namespace dx = distil_xlstm;

using namespace dx::loss;

#if defined(EXPECT_FAILURE)
const auto e = kl();
#else
const auto e = kl(1);
#endif
