// expect: the objective compares with a teacher; give a live_teacher or a cached_teacher
#include <distil_xlstm/block/linear.hpp>
#include <distil_xlstm/device/cpu.hpp>
#include <distil_xlstm/distil/trainer.hpp>
#include <distil_xlstm/loss/expression.hpp>

namespace dx = distil_xlstm;
using dx::device::cpu;

void train(cpu& device, dx::model<dx::linear<8, 8>, float, cpu>& student, const dx::token_windows& text) {
#if defined(EXPECT_FAILURE)
  dx::trainer run(device, student, text, dx::no_teacher{}, dx::loss::kl(2), {});
#else
  dx::trainer run(device, student, text, dx::no_teacher{}, dx::loss::cross_entropy(), {});
#endif
}
