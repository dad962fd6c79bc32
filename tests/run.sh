#!/usr/bin/env bash
# Installs what is missing, builds everything and runs every test. (Benchmarks are compiled, not built: cmake --preset
# release -DDISTIL_XLSTM_BENCH=ON.)
#
#   bash tests/run.sh            g++, optimised for this machine
#   bash tests/run.sh --python   and besides: files exchanged with the Python packages that know them (tests/python)
#   bash tests/run.sh --ci       and besides: what nvcc compiles; each header by itself; a part by clang with the address
#                                and undefined-behaviour sanitizers; each fuzz target for 10 seconds; a student trained on
#                                aarch64, with libc++, and for several x86 machines
#   bash tests/run.sh --all      and besides: everything by clang, with the sanitizers and without; each fuzz target for
#                                10 minutes
set -euo pipefail
cd "$(dirname "$0")/.."
part=none python=
for option in "$@"; do
  case $option in
    --python) python=yes ;;
    --ci) part='^(comm[.]tcp$|io|laws[.]check_block$|loss[.]head$|model[.]llama$)' presets=(asan-ubsan) seconds=10 ;;
    --all) part= presets=(asan-ubsan clang) seconds=600 ;;
    *) echo "run.sh: unknown option '$option' (--python, --ci, --all)" >&2; exit 2 ;;
  esac
done
packages=(g++ cmake ninja-build pkg-config libeigen3-dev nlohmann-json3-dev libpcre2-dev libutf8proc-dev zlib1g-dev
          libssl-dev libboost-test-dev libboost-program-options-dev libbenchmark-dev
          libopenmpi-dev openmpi-bin doxygen python3)
[ "$part" = none ] || packages+=(clang libclang-rt-dev)
stage() { echo "== $* (after $SECONDS s)"; }
bash cmake/install_packages.sh "${packages[@]}"

stage "g++"
cmake --preset release -DDISTIL_XLSTM_TESTS=ON -DDISTIL_XLSTM_BENCH=OFF
# What later stages need comes while this one compiles.
fetch() {
  [ -z "$python" ] || bash tests/python/run.sh --fetch
  [ "$part" = none ] || bash cmake/install_cuda.sh build/cuda-toolkit
  [ "$part" = none ] || bash tests/portability/run.sh build/portability --fetch
}
fetch >&2 &
fetching=$!
cmake --build --preset release
# Three at a time: some wait for processes rather than for a core.
ctest --test-dir build/release --output-on-failure -j3
wait $fetching
if [ -n "$python" ]; then
  stage "Python"
  bash tests/python/run.sh
fi
[ "$part" = none ] && exit 0

stage "CUDA, run where there is a GPU"
nvcc=$(bash cmake/install_cuda.sh build/cuda-toolkit)
# The program's jobs in bfloat16 products and a model in float that is compiled once: together all that nvcc has to know;
# and a test.
cmake --preset cuda "-DCMAKE_CUDA_COMPILER=$nvcc" -DCMAKE_CUDA_ARCHITECTURES=90 "-DCMAKE_CUDA_FLAGS_RELEASE=-O0 -Ofc max"
objects=CMakeFiles/distil.dir/examples/distil
nccl=$(ninja -C build/cuda -t targets all | grep -o "^$objects/nccl.cu.o" || true)  # where NCCL is found
cmake --build --preset cuda --target $objects/cuda_bf16.cu.o $nccl test.cuda.compiled_once test.cuda.optim
ctest --test-dir build/cuda --output-on-failure -R '^cuda[.](compiled_once|optim)$'

stage "each header by itself"
cmake -G Ninja -B build/headers -DDISTIL_XLSTM_TESTS=OFF -DDISTIL_XLSTM_EXAMPLES=OFF -DDISTIL_XLSTM_BENCH=OFF
cmake --build build/headers --target all_verify_interface_header_sets

for preset in "${presets[@]}"; do
  stage "$preset"
  cmake --preset $preset "-DDISTIL_XLSTM_TEST_FILTER=$part" -DDISTIL_XLSTM_INSTALL=OFF -DDISTIL_XLSTM_BENCH=OFF \
    -DDISTIL_XLSTM_EXAMPLES=$([ -z "$part" ] && echo ON || echo OFF)
  cmake --build --preset $preset
  # But what runs compilers of its own, which the first stage did.
  ctest --test-dir build/$preset --output-on-failure -j2 -E '^(compile_fail|front_end|install|repository|warnings)'
done
stage "fuzz targets, $seconds s each"
bash tests/fuzz/run.sh build/asan-ubsan $seconds
stage "other processors, other standard library"
bash tests/portability/run.sh build/portability
stage "passed"
