// expect: live_teacher(teacher) refers to the teacher, which must live as long: give it a name first
#include <distil_xlstm/device/cpu.hpp>
#include <distil_xlstm/distil/teacher_source.hpp>
#include <distil_xlstm/model/load_llama.hpp>

namespace dx = distil_xlstm;

dx::index layers(dx::device::cpu& device) {
#if defined(EXPECT_FAILURE)
  dx::live_teacher live(dx::load_llama<float>(device, "teacher"));
#else
  const auto teacher = dx::load_llama<float>(device, "teacher");
  dx::live_teacher live(teacher);
#endif
  return live.layers();
}
