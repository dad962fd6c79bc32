// expect: loss::term(t): t says nothing of where it acts
#include <distil_xlstm/loss/expression.hpp>

namespace dx = distil_xlstm;

using namespace dx::loss;

#if defined(EXPECT_FAILURE)
const auto e = term(dx::schedule::constant{1.0});
#else
const auto e = term(cosine_term<double>{});
#endif
