// expect: trainer refers to the device and the student, which must live as long: give them names first
#include <distil_xlstm/block/linear.hpp>
#include <distil_xlstm/device/cpu.hpp>
#include <distil_xlstm/distil/trainer.hpp>
#include <distil_xlstm/loss/expression.hpp>

namespace dx = distil_xlstm;
using dx::device::cpu;
using student_type = dx::model<dx::linear<8, 8>, float, cpu>;

void train([[maybe_unused]] cpu& device, student_type& student, const dx::token_windows& windows) {
#if defined(EXPECT_FAILURE)
  dx::trainer run(cpu(), student, windows, dx::no_teacher{}, dx::loss::cross_entropy(), {});
#else
  dx::trainer run(device, student, windows, dx::no_teacher{}, dx::loss::cross_entropy(), {});
#endif
}
