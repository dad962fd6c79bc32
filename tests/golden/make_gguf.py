#!/usr/bin/env python3
"""Writes gguf/: blocks of every type that is read, and the floats that they are; given a converter, teachers. Run by
hand:

    python3 -m venv venv && venv/bin/pip install gguf==0.19.0 safetensors==0.8.0 numpy==2.4.6
    venv/bin/python make_gguf.py

    venv/bin/pip install -r requirements.txt
    venv/bin/pip download --no-deps --no-binary :all: llama-cpp-python==0.3.36 && tar xf llama_cpp_python-0.3.36.tar.gz
    venv/bin/python make_gguf.py llama_cpp_python-0.3.36/vendor/llama.cpp

The reference is the PyPI package gguf 0.19.0, Python 3.11.
    every_type.gguf        a tensor of each type, named by it: random bytes, the halves among them finite; the first
                           four blocks have the halves 2^-24, the largest subnormal one, -0 and the largest one
    expected.safetensors   F32, the same names and shapes: what the package's `dequantize` makes of them
    teacher/NAME.gguf      teacher/NAME beside this script, as llama.cpp's own converter writes it, without a tokenizer;
                           its numbers are those of teacher/NAME/expected.safetensors
"""
import pathlib
import sys

sys.path[:0] = [str(pathlib.Path(at) / part) for at in sys.argv[1:] for part in ("", "gguf-py")]  # the converter's own
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


def convert():
    """A teacher of each family, and of each kind of key and tensor that tells of positions."""
    from conversion import ModelBase, ModelType, get_model_architecture, get_model_class
    root = pathlib.Path(__file__).resolve().parent
    out = root / "gguf/teacher"
    out.mkdir(exist_ok=True)
    for name in ("llama3_scaling", "llama_linear_scaling", "mistral", "qwen3_bias", "smollm3"):
        folder, file = root / "teacher" / name, out / f"{name}.gguf"
        kind = get_model_class(get_model_architecture(ModelBase.load_hparams(folder, False), ModelType.TEXT))
        kind.set_vocab = lambda self: None
        kind(folder, gguf.LlamaFileType.MOSTLY_BF16, file, eager=True).write()
        file.chmod(0o644)
        print(file.name, file.stat().st_size)


def main():
    if len(sys.argv) > 1:
        return convert()
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
