// expect: check_term: laws are tried in double; write check_term(my_term<double>{...})
#include <distil_xlstm/loss/mse.hpp>
#include <distil_xlstm/testing/check_term.hpp>

namespace dx = distil_xlstm;

#if defined(EXPECT_FAILURE)
const auto report = dx::testing::check_term(dx::loss::mse_term<float>{});
#else
const auto report = dx::testing::check_term(dx::loss::mse_term<double>{});
#endif
