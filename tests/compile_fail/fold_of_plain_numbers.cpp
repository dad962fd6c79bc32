// expect: fold_rows(device, rows, cols, f): f's acc<V> must hold V's only; write V instead of float or int
#include <distil_xlstm/device/cpu.hpp>

namespace dx = distil_xlstm;

template <bool Packs>
struct sum {
  using scalar = float;
  template <class V>
  struct acc {
    V total;
    std::conditional_t<Packs, V, float> count;
  };
  template <class V>
  acc<V> init() const {
    return {};
  }
  template <class V>
  void visit(acc<V>&, dx::index, dx::index) const {}
  void merge(acc<float>&, const acc<float>&) const {}
  void finish(dx::index, const acc<float>&) const {}
};

#if defined(EXPECT_FAILURE)
void f(dx::device::cpu& device) { fold_rows(device, 2, 3, sum<false>{}); }
#else
void f(dx::device::cpu& device) { fold_rows(device, 2, 3, sum<true>{}); }
#endif
