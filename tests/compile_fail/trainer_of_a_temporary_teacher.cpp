// expect: refers to the teacher's source, which must live as long: give it a name first, live_teacher live(teacher)
#include <distil_xlstm/device/cpu.hpp>
#include <distil_xlstm/distil/trainer.hpp>
#include <distil_xlstm/loss/expression.hpp>
#include <distil_xlstm/model/llama.hpp>

namespace dx = distil_xlstm;
using dx::device::cpu;
using student_type = dx::model<dx::llama_stack, float, cpu>;

void train(cpu& device, const dx::llama<float, cpu>& teacher, student_type& student,
           const dx::token_windows& windows) {
#if defined(EXPECT_FAILURE)
  dx::trainer run(device, student, windows, dx::live_teacher(teacher), dx::loss::kl(2.0), {.total_steps = 3});
#else
  dx::live_teacher live(teacher);
  dx::trainer run(device, student, windows, live, dx::loss::kl(2.0), {.total_steps = 3});
#endif
}
