#!/usr/bin/env bash
# run.sh FOLDER [--fetch]: builds student.cpp, header-only, for several processors and with several compilers in FOLDER,
# runs each that can run here, and holds each against the first. aarch64 runs under qemu. --fetch: only fetches what that
# needs.
set -euo pipefail
out=$(mkdir -p "$1" && cd "$1" && pwd)
cd "$(dirname "$0")/../.."
bash cmake/install_packages.sh g++ clang-19 libc++-19-dev libc++abi-19-dev libeigen3-dev nlohmann-json3-dev \
  libssl-dev libpcre2-dev libutf8proc-dev g++-aarch64-linux-gnu qemu-user

# libcrypto for aarch64, of Debian's packages and beside the system: nothing is installed.
arm=$out/aarch64
if [ ! -d "$arm/usr" ]; then
  mkdir -p "$arm/lists/partial"
  apt=(apt-get -qq -o "APT::Architectures=$(dpkg --print-architecture),arm64" -o "Dir::State::Lists=$arm/lists")
  "${apt[@]}" update
  (cd "$arm" && "${apt[@]}" download libssl-dev:arm64 libssl3:arm64 && for p in *.deb; do dpkg -x "$p" .; done)
fi

[ "${2-}" = --fetch ] && exit

# build NAME COMPILER OPTION...
build() {
  local name=$1
  shift
  "$@" -std=c++20 -O1 -Iinclude -isystem /usr/include/eigen3 tests/portability/student.cpp -o "$out/$name" -lcrypto -pthread
}
# The standards to come, by a newer clang, without a warning.
read_as() {
  clang++-19 -std=$1 -fsyntax-only -Wall -Wextra -Wconversion -Werror -Iinclude -isystem /usr/include/eigen3 tests/warnings.cpp
}
export out arm
export -f build read_as
libs=$arm/usr/lib/aarch64-linux-gnu
printf '%s\n' \
  "build arm aarch64-linux-gnu-g++ -isystem $arm/usr/include -isystem $arm/usr/include/aarch64-linux-gnu -L$libs" \
  "build x86-64 g++ -march=x86-64" \
  "build x86-64-v3 g++ -march=x86-64-v3" \
  "build x86-64-v4 g++ -march=x86-64-v4" \
  "build libc++ clang++-19 -stdlib=libc++ -march=x86-64" \
  "read_as c++23" \
  "read_as c++26" |
  xargs -P 2 -I{} bash -c '{}'

status=0
# try NAME COMMAND...: against the reference, once there is one
try() {
  local name=$1 reference=
  shift
  [ "$name" = x86-64 ] || reference=$out/students/x86-64
  echo "-- $name"
  "$@" "$out/students/$name" $reference || status=1
}
has() { for flag in "$@"; do grep -qw "$flag" /proc/cpuinfo || return 1; done; }
try x86-64 "$out/x86-64"
if has avx2 fma bmi2; then try x86-64-v3 "$out/x86-64-v3"; fi
if has avx512f avx512bw avx512vl avx512dq; then try x86-64-v4 "$out/x86-64-v4"; else echo "-- x86-64-v4: compiled, not run: this machine lacks AVX-512"; fi
try libc++ "$out/libc++"
try aarch64 qemu-aarch64 -L /usr/aarch64-linux-gnu -E "LD_LIBRARY_PATH=$libs" "$out/arm"
exit $status
