#!/usr/bin/env python3
"""How long programs that include the library take to compile, and how much memory: a table for the README.

    python3 bench/compile_time/compile_time.py [--runs 3] [--compilers g++ clang++] [--compiled]
                                               [--include FOLDER] [--sources FILE...]

Processor seconds (user and system) of one compiler process, the median of the runs, which other work on the machine
changes less than the time on the clock; and its peak resident memory. Eigen is found by pkg-config. A header-only library is
judged by this: its users compile it again with every source file that includes it.
"""
import argparse
import os
import pathlib
import shutil
import statistics
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
SOURCES = {
    "one block": ROOT / "examples/consumer/one_block.cpp",
    "generation": ROOT / "bench/compile_time/generation.cpp",
    "training": ROOT / "examples/readme.cpp",
}


def measure(command):
    """Processor seconds and peak memory in MB of a command and its children; raises where it fails."""
    child = os.posix_spawnp(command[0], command, os.environ)
    _, status, usage = os.wait4(child, 0)
    if status != 0:
        raise SystemExit(f"compile_time.py: {' '.join(command)} failed")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--runs", type=int, default=3, help="runs of each; the median is shown")
    options.add_argument("--compilers", nargs="+", default=["g++", "clang++"])
    options.add_argument("--compiled", action="store_true", help="as who links distil_xlstm::compiled compiles them")
    options.add_argument("--include", default=ROOT / "include", help="the library's headers")
    options.add_argument("--sources", nargs="+", type=pathlib.Path, help="other programs than the three")
    given = options.parse_args()
    sources = {s.stem: s for s in given.sources} if given.sources else SOURCES
    eigen = subprocess.run(["pkg-config", "--cflags-only-I", "eigen3"], capture_output=True, text=True, check=True)
    flags = ["-std=c++20", "-c", "-o", "-", f"-I{given.include}", *eigen.stdout.replace("-I", "-isystem").split()]
    if given.compiled:
        flags.append("-DDISTIL_XLSTM_COMPILED")
    levels = ("-O0", "-O2")
    print("| program | " + " | ".join(f"{c} {level}" for c in given.compilers for level in levels) + " |")
    print("|---" * (1 + len(given.compilers) * len(levels)) + "|")
    with tempfile.TemporaryDirectory() as folder:
        flags[flags.index("-")] = f"{folder}/object.o"
        for name, source in sources.items():
            row = []
            for compiler in filter(shutil.which, given.compilers):
                for level in levels:
                    runs = [measure([compiler, *flags, level, str(source)]) for _ in range(given.runs)]
                    seconds = statistics.median(r[0] for r in runs)
                    row.append(f"{seconds:.1f} s, {max(r[1] for r in runs):.0f} MB")
            print(f"| {name} | " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
