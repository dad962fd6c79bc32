#!/usr/bin/env bash
# The program's files in other people's packages, and theirs in the program: test_*.py over build/release/bin/distil.
#
#   bash tests/python/run.sh            fetches what is missing, and runs them
#   bash tests/python/run.sh --fetch    fetches alone
#
# The packages are put into build/venv. DISTIL_XLSTM_PYTHON=INTERPRETER takes that interpreter as it is instead: one
# that has transformers and accelerate, too, compares the quickstart's teacher.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${DISTIL_XLSTM_PYTHON:-}
if [ -z "$python" ]; then
  # Debian's PyTorch (1.13) is for the CPU alone: with what it needs 160 MB to fetch, 0.6 GB in place; PyPI's takes
  # 5.7 GB, most of it CUDA. The reference's models need nothing newer: both give the same numbers.
  bash cmake/install_packages.sh python3 python3-venv python3-torch
  python=build/venv/bin/python
  if ! cmp -s tests/python/requirements.txt build/venv/.installed; then
    echo "== build/venv" >&2
    rm -rf build/venv
    /usr/bin/python3 -m venv --system-site-packages build/venv
    $python -m pip install -q --disable-pip-version-check --no-deps --only-binary :all: -r tests/python/requirements.txt
    cp tests/python/requirements.txt build/venv/.installed
  fi
fi
[ "${1-}" = --fetch ] && exit
"$python" -c 'import sys, torch; print("== Python", sys.version.split()[0], "torch", torch.__version__)'
PYTHONDONTWRITEBYTECODE=1 "$python" -W ignore -m unittest discover -s tests/python -v
