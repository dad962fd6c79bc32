#pragma once

// What takes longest to read of what tests include: read once, and given to each (the compiler's precompiled headers).
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include <boost/test/unit_test.hpp>

#include <Eigen/Core>
#include <nlohmann/json.hpp>
