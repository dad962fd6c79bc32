#pragma once

#include <vector>

/// The gradients of a small block by each weight, computed by an object that was compiled for one machine.
std::vector<float> x86_64();
std::vector<float> native();
