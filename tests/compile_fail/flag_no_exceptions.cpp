// expect: distil_xlstm reports mistakes as exceptions: compile without -fno-exceptions
// flags: -fno-exceptions
#include <distil_xlstm/distil_xlstm.hpp>
