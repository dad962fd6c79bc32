// expect: loss::term(t): t says nothing of where it acts; write `using site =
#if defined(EXPECT_FAILURE)
#define WITHOUT_SITE
#endif
#include "squares.hpp"

const auto e = dx::loss::term(squares<>{});
