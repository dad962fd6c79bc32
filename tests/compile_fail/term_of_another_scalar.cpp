// expect: loss: a term's scalar must be that of the objective; make the term a template on its scalar, or
#include "squares.hpp"

const auto e = dx::loss::cross_entropy() + dx::loss::term(squares<float>{});
#if defined(EXPECT_FAILURE)
const auto objective = e.at<double>({});
#else
const auto objective = e.at<float>({});
#endif
