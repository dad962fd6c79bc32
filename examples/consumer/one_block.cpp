// One block and nothing else: no files, no models, only Eigen behind it. An sLSTM layer reads a sequence whole,
// then in two parts with its state carried over, and must not notice.

#include <iostream>

#include <distil_xlstm/block/slstm.hpp>
#include <distil_xlstm/device/cpu.hpp>
#include <distil_xlstm/testing/gradcheck.hpp>

namespace dx = distil_xlstm;

int main() {
  dx::device::cpu device;
  const dx::slstm layer{.width = 8, .heads = 2};
  using harness = dx::testing::harness<dx::slstm, double, dx::device::cpu>;
  harness whole(layer, device, {1, 12}), part(layer, device, {1, 6});  // equal seeds, equal weights

  whole.forward();
  double apart = 0;
  for (int half = 0; half < 2; ++half) {
    for (dx::index i = 0; i < part.x.size(); ++i) part.x.data()[i] = whole.x.data()[half * part.x.size() + i];
    part.forward();  // goes on from the state that the first half left
    apart = std::max(apart, dx::testing::relative_error(part.y.data(), whole.y.data() + half * part.y.size(),
                                                        part.y.size()));
  }
  std::cout << "two halves differ from the whole by " << apart << " of its largest number\n";
  return apart < 1e-12 ? 0 : 1;
}
