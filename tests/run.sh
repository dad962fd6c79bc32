#!/usr/bin/env bash
# Installs what is missing, builds everything and runs every test.
set -euo pipefail
cd "$(dirname "$0")/.."
bash cmake/install_packages.sh g++ cmake ninja-build pkg-config libeigen3-dev nlohmann-json3-dev libpcre2-dev \
  libutf8proc-dev zlib1g-dev libboost-test-dev libboost-program-options-dev
cmake --preset release -DDISTIL_XLSTM_TESTS=ON -DDISTIL_XLSTM_BENCH=ON
cmake --build --preset release
ctest --test-dir build/release --output-on-failure -j2
