// expect: loss::term(t): a term at hidden_site needs a function `loss::scope scope() const`
#if defined(EXPECT_FAILURE)
#define WITHOUT_SCOPE
#endif
#include "squares.hpp"

const auto e = dx::loss::term(hidden_squares{});
