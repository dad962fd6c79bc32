// expect: loss::term(t): a term at logits_site needs scalar, folds, value, grad and target_grad
#if defined(EXPECT_FAILURE)
#define WITHOUT_TARGET_GRAD
#endif
#include "squares.hpp"

const auto e = dx::loss::term(squares<>{});
