#!/usr/bin/env bash
# Installs what is missing, builds everything and runs every test.
#
#   bash tests/run.sh            g++, optimised for this machine
#   bash tests/run.sh --python   and besides: files exchanged with the Python packages that know them (tests/python)
#   bash tests/run.sh --ci       and besides: what nvcc compiles; each header by itself; a part under clang and under
#                                the address and undefined-behaviour sanitizers; each fuzz target for 20 seconds
#   bash tests/run.sh --all      and besides: everything under both; each fuzz target for 10 minutes
set -euo pipefail
cd "$(dirname "$0")/.."
part=none python=
for option in "$@"; do
  case $option in
    --python) python=yes ;;
    --ci) part='^(distil.own_student|io|laws.check_block|laws.terms|loss|model)' seconds=20 ;;
    --all) part= seconds=600 ;;
    *) echo "run.sh: unknown option '$option' (--python, --ci, --all)" >&2; exit 2 ;;
  esac
done
packages=(g++ cmake ninja-build pkg-config libeigen3-dev nlohmann-json3-dev libpcre2-dev libutf8proc-dev zlib1g-dev
          libboost-test-dev libboost-program-options-dev libbenchmark-dev)
[ "$part" = none ] || packages+=(clang libclang-rt-dev python3)
bash cmake/install_packages.sh "${packages[@]}"

cmake --preset release -DDISTIL_XLSTM_TESTS=ON -DDISTIL_XLSTM_BENCH=ON
cmake --build --preset release
ctest --test-dir build/release --output-on-failure -j2
if [ -n "$python" ]; then
  echo "== Python"
  bash tests/python/run.sh
fi
[ "$part" = none ] && exit 0

echo "== CUDA (compiled, and run where there is a GPU)"
nvcc=$(bash cmake/install_cuda.sh build/cuda-toolkit)
# Whole training steps, the program's jobs, and a model that is compiled once: together all that nvcc has to know.
cmake --preset cuda "-DCMAKE_CUDA_COMPILER=$nvcc" -DCMAKE_CUDA_ARCHITECTURES=90 "-DCMAKE_CUDA_FLAGS_RELEASE=-O1 -Ofc max"
cmake --build --preset cuda --target test.cuda.steps test.cuda.compiled_once CMakeFiles/distil.dir/examples/distil/cuda.cu.o
ctest --test-dir build/cuda --output-on-failure -R '^cuda[.](steps|compiled_once)$'

echo "== each header by itself"
cmake --build --preset release --target all_verify_interface_header_sets

for preset in clang asan-ubsan; do
  echo "== $preset"
  cmake --preset $preset "-DDISTIL_XLSTM_TEST_FILTER=$part" -DDISTIL_XLSTM_INSTALL=OFF -DDISTIL_XLSTM_BENCH=OFF \
    -DDISTIL_XLSTM_EXAMPLES=$([ -z "$part" ] && echo ON || echo OFF)
  cmake --build --preset $preset
  ctest --test-dir build/$preset --output-on-failure -j2 -E '^compile_fail'
done
echo "== fuzz targets, $seconds s each"
bash tests/fuzz/run.sh build/clang $seconds
