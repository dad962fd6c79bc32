// expect: decoder::step(on_token): on_token(handle, id) returns whether the text goes on
#include <distil_xlstm/block/slstm.hpp>
#include <distil_xlstm/block/stack.hpp>
#include <distil_xlstm/device/cpu.hpp>
#include <distil_xlstm/model/decoder.hpp>

namespace dx = distil_xlstm;

using student = dx::model<dx::stack<dx::basic_slstm<8, 2>, 1>, float, dx::device::cpu>;

dx::index write(dx::decoder<student>& batch) {
#if defined(EXPECT_FAILURE)
  return batch.step([](std::int32_t id) { return id > 0; });
#else
  return batch.step([](auto, std::int32_t id) { return id > 0; });
#endif
}
