// expect: loss::term(t): write `static constexpr const char* name
#if defined(EXPECT_FAILURE)
#define WITHOUT_NAME
#endif
#include "squares.hpp"

const auto e = dx::loss::term(squares<>{});
