// expect: stack{layer}: a stack repeats its layer; write stack{repeated(n, layer)}, and of a bare cell a layer of
#include <distil_xlstm/block/mlstm.hpp>
#include <distil_xlstm/block/residual.hpp>
#include <distil_xlstm/block/stack.hpp>

namespace dx = distil_xlstm;

dx::index layers() {
  const dx::mlstm cell{.width = 8, .heads = 2, .inner = 16};
#if defined(EXPECT_FAILURE)
  const dx::stack layers{cell};
#else
  const dx::stack layers{dx::repeated(3, dx::residual{dx::sequential{dx::layer_norm<>{8}, cell}})};
#endif
  return dx::stack{layers}.count();
}
