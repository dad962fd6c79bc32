// expect: trainer takes, in this order, a device, a student, token_windows, a teacher, an objective of terms, and options
#include <distil_xlstm/device/cpu.hpp>
#include <distil_xlstm/distil/trainer.hpp>
#include <distil_xlstm/loss/expression.hpp>
#include <distil_xlstm/model/llama.hpp>

namespace dx = distil_xlstm;
using dx::device::cpu;
using student_type = dx::model<dx::llama_stack, float, cpu>;

void train(cpu& device, const dx::llama<float, cpu>& teacher, student_type& student,
           const dx::token_windows& windows) {
  dx::live_teacher live(teacher);
#if defined(EXPECT_FAILURE)
  dx::trainer run(device, student, live, windows, dx::loss::kl(2.0), {.total_steps = 3});
#else
  dx::trainer run(device, student, windows, live, dx::loss::kl(2.0), {.total_steps = 3});
#endif
}
