// expect: loss::term(t): write `static constexpr bool uses_teacher = true;`
#if defined(EXPECT_FAILURE)
#define WITHOUT_USES_TEACHER
#endif
#include "squares.hpp"

const auto e = dx::loss::term(squares<>{});
