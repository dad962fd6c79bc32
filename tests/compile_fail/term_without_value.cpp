// expect: loss::term(t): a term at hidden_site needs scalar, folds, value and grad
#if defined(EXPECT_FAILURE)
#define WITHOUT_VALUE
#endif
#include "squares.hpp"

const auto e = dx::loss::term(hidden_squares{});
