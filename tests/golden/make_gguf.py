#!/usr/bin/env python3
"""Writes gguf/: blocks of every type that is read, and the floats that they are. Run by hand:

    python3 -m venv venv && venv/bin/pip install gguf==0.19.0 safetensors==0.8.0 numpy==2.4.6
    venv/bin/python make_gguf.py

The reference is the PyPI package gguf 0.19.0, Python 3.11.
    every_type.gguf        a tensor of each type, named by it: random bytes, the halves among them finite; the first
                           four blocks have the halves 2^-24, the largest subnormal one, -0 and the largest one
    expected.safetensors   F32, the same names and shapes: what the package's `dequantize` makes of them
"""
import pathlib

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from safetensors.numpy import save_file

HALVES = {Type.F16: [0], Type.Q8_0: [0], Type.Q4_0: [0], Type.Q4_1: [0, 2], Type.Q5_0: [0], Type.Q4_K: [0, 2],
          Type.Q6_K: [208]}
SPECIAL = np.array([0x0001, 0x03FF, 0x8000, 0x7BFF], np.uint16)


def blocks(kind, random):
    """Four rows of bytes: 8 blocks each, 2 where they are long, 32 numbers where the type has no blocks."""
    numbers, size = gguf.GGML_QUANT_SIZES[kind]
    count = {1: 32, 32: 8, 256: 2}[numbers]
    raw = random.integers(0, 256, (4 * count, size), np.uint8)
    if kind == Type.BF16:
        raw[:, 1] = np.where((raw[:, 1] & 0x7F) == 0x7F, raw[:, 1] & 0xBF, raw[:, 1])
    for at in HALVES.get(kind, []):
        raw[:, at + 1] = np.where((raw[:, at + 1] & 0x7C) == 0x7C, raw[:, at + 1] & 0x83, raw[:, at + 1])
        raw[:4, at:at + 2] = SPECIAL[:, None].view(np.uint8)
    return raw.reshape(4, -1)


def main():
    out = pathlib.Path(__file__).resolve().parent / "gguf"
    out.mkdir(exist_ok=True)
    writer, expected = gguf.GGUFWriter(out / "every_type.gguf", "llama"), {}
    for kind in (Type.F16, Type.BF16, Type.Q8_0, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q4_K, Type.Q6_K):
        raw = blocks(kind, np.random.default_rng(int(kind)))
        writer.add_tensor(kind.name, raw, raw_dtype=kind)
        expected[kind.name] = gguf.quants.dequantize(raw.view(np.float16) if kind == Type.F16 else raw, kind)
        assert expected[kind.name].dtype == np.float32 and np.isfinite(expected[kind.name]).all()
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    save_file(expected, out / "expected.safetensors")
    for file in out.iterdir():
        file.chmod(0o644)
        print(file.name, file.stat().st_size)


if __name__ == "__main__":
    main()
