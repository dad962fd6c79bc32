// expect: loss::kl(T): T is a number or a schedule; write kl(2.0) or kl(schedule::linear{4.0, 1.0})
#include <distil_xlstm/loss/expression.hpp>

namespace dx = distil_xlstm;

using namespace dx::loss;

#if defined(EXPECT_FAILURE)
const auto e = kl("2");
#else
const auto e = kl(dx::schedule::constant{2.0});
#endif
