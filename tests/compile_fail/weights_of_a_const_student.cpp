// expect: read-only
#include <distil_xlstm/block/linear.hpp>
#include <distil_xlstm/device/cpu.hpp>
#include <distil_xlstm/model/model.hpp>

namespace dx = distil_xlstm;
using dx::device::cpu;
using student = dx::model<dx::linear<8, 8>, float, cpu>;

#if defined(EXPECT_FAILURE)
void clear(const student& s) {
#else
void clear(student& s) {
#endif
  s.weights().data()[0] = 0;
  s.weights().views().weight.row(0)[0] = 0;
}
