// expect: decoder(device, model) refers to the model, which must live as long: give it a name first
#include <distil_xlstm/device/cpu.hpp>
#include <distil_xlstm/model/decoder.hpp>
#include <distil_xlstm/model/load_xlstm.hpp>

namespace dx = distil_xlstm;

dx::index places(dx::device::cpu& device) {
#if defined(EXPECT_FAILURE)
  const dx::decoder texts(device, dx::load_xlstm<float>(device, "student"));
#else
  const auto student = dx::load_xlstm<float>(device, "student");
  const dx::decoder texts(device, student);
#endif
  return texts.places();
}
