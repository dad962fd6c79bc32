#!/usr/bin/env bash
# Says where nvcc is: on the PATH, or fetched from PyPI into the folder named (1 GB; it compiles, and needs no GPU).
set -euo pipefail
folder=$1
if command -v nvcc >/dev/null; then
  command -v nvcc
  exit 0
fi
root=$(echo "$folder"/lib/python3*/site-packages/nvidia/cu13)
if [ ! -x "$root/bin/nvcc" ]; then
  echo "== fetching nvcc into $folder" >&2
  bash "$(dirname "$0")/install_packages.sh" python3-venv
  python3 -m venv "$folder"
  "$folder/bin/pip" install -q nvidia-cuda-{nvcc,crt,runtime,cccl}==13.0.* nvidia-nvvm==13.0.* nvidia-cublas==13.0.* 'nvidia-nccl-cu13<3'
  root=$(echo "$folder"/lib/python3*/site-packages/nvidia/cu13)
  # The names that linkers look for.
  for library in "$root"/lib/*.so.*; do ln -sf "$(basename "$library")" "${library%.so.*}.so"; done
  ln -sfn lib "$root/lib64"
fi
realpath "$root/bin/nvcc"
