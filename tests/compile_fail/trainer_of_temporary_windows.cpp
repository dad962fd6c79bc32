// expect: trainer refers to the windows, which must live as long: give them a name first
#include <distil_xlstm/block/linear.hpp>
#include <distil_xlstm/device/cpu.hpp>
#include <distil_xlstm/distil/trainer.hpp>
#include <distil_xlstm/loss/expression.hpp>

namespace dx = distil_xlstm;
using dx::device::cpu;

void train(cpu& device, dx::model<dx::linear<8, 8>, float, cpu>& student, const dx::token_text& text) {
#if defined(EXPECT_FAILURE)
  dx::trainer run(device, student, dx::token_windows(text, 8), dx::no_teacher{}, dx::loss::cross_entropy(), {});
#else
  const dx::token_windows windows(text, 8);
  dx::trainer run(device, student, windows, dx::no_teacher{}, dx::loss::cross_entropy(), {});
#endif
}
