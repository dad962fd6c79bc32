// expect: student_batch<Student>: Student is a recurrent model, whose state has one size; write student_batch<
#include <distil_xlstm/device/cpu.hpp>
#include <distil_xlstm/model/llama.hpp>
#include <distil_xlstm/model/student_batch.hpp>
#include <distil_xlstm/model/xlstm.hpp>

namespace dx = distil_xlstm;

#if defined(EXPECT_FAILURE)
using batch = dx::student_batch<dx::llama<float, dx::device::cpu>>;
#else
using batch = dx::student_batch<dx::xlstm<float, dx::device::cpu>>;
#endif
static_assert(sizeof(batch));
