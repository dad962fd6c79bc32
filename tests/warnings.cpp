// Everything that the library has for any host compiler, as `tests/CMakeLists.txt` compiles it: without a warning.
#include <distil_xlstm/distil_xlstm.hpp>
#include <distil_xlstm/testing/check_block.hpp>
#include <distil_xlstm/testing/check_device.hpp>
#include <distil_xlstm/testing/check_expression.hpp>
#include <distil_xlstm/testing/check_schedule.hpp>
#include <distil_xlstm/testing/check_term.hpp>

// A student that is chosen when the program runs: all blocks' code.
using student = distil_xlstm::xlstm<float, distil_xlstm::device::cpu>;
template class distil_xlstm::decoder<student>;
template class distil_xlstm::reader<student>;
