// expect: distil_xlstm is C++20: compile with -std=c++20
// flags: -std=c++17
#include <distil_xlstm/distil_xlstm.hpp>
