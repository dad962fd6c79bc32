// expect: loss::term(t): t's folds must hold V's only; write V instead of double or int
#include <distil_xlstm/device/cpu/pack.hpp>

#include "squares.hpp"

struct halves : squares<> {
  template <class V>
  auto folds(V, V) const {
#if defined(EXPECT_FAILURE)
    return dx::loss::fold_list(dx::loss::fold<dx::math::sum>(0.5));
#else
    return dx::loss::fold_list(dx::loss::fold<dx::math::sum>(V(0.5)));
#endif
  }
};

const auto terms = dx::loss::term(halves{}).at<double>({}).logits;
const auto empty = terms.init<dx::device::pack<double>>();
