// expect: reader(device, model) refers to the model, which must live as long: give it a name first
#include <distil_xlstm/device/cpu.hpp>
#include <distil_xlstm/model/load_xlstm.hpp>
#include <distil_xlstm/model/reader.hpp>

namespace dx = distil_xlstm;

dx::index width(dx::device::cpu& device) {
#if defined(EXPECT_FAILURE)
  const dx::reader session(device, dx::load_xlstm<float>(device, "student"));
#else
  const auto student = dx::load_xlstm<float>(device, "student");
  const dx::reader session(device, student);
#endif
  return session.model().width();
}
