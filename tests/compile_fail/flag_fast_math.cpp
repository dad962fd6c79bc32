// expect: distil_xlstm computes with infinities and looks for NaN: compile without -ffast-math
// flags: -ffast-math
#include <distil_xlstm/distil_xlstm.hpp>
