// expect: loss::term(t): t says nothing of where it acts; write `using site =
#include "squares.hpp"

#if defined(EXPECT_FAILURE)
const auto e = dx::loss::term(squares<double, struct attention_site>{});
#else
const auto e = dx::loss::term(squares<double, dx::loss::hidden_site>{});
#endif
