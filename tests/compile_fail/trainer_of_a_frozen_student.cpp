// expect: this student is const, or a frozen model, which nothing trains; a student is model student(device, stack
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
  auto& trained = teacher;
#else
  auto& trained = student;
#endif
  dx::live_teacher live(teacher);
  dx::trainer run(device, trained, windows, live, dx::loss::kl(2.0), {.total_steps = 3});
}
