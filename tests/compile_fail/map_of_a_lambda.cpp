// expect: map(device, rows, cols, f): f is a struct with `using scalar = float;`
#include <distil_xlstm/device/cpu.hpp>

namespace dx = distil_xlstm;

struct twice {
  using scalar = float;
  template <class V>
  void operator()(dx::index, dx::index) const {}
};

#if defined(EXPECT_FAILURE)
void f(dx::device::cpu& device) {
  map(device, 2, 3, [](dx::index, dx::index) {});
}
#else
void f(dx::device::cpu& device) { map(device, 2, 3, twice{}); }
#endif
