"""What `distil quantise` writes, in the package gguf: blocks byte for byte, keys, and whole models."""
import json
import re
import shutil
import unittest

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import GGUFValueType as Value

from common import TEACHER, apart, distil, folder, logits, make_teacher, make_tokens, numbers, refused, write
from test_gguf import gguf_name, in_pairs

TYPES = {"q8_0": Type.Q8_0, "q4_0": Type.Q4_0}
GATES = re.compile(r"\.(igate|fgate|gates)\.")


def quantise(model, kind):
    path = folder() / "model.gguf"
    distil("quantise", "--model", model, "--type", kind, "--out", path)
    return path


def tensors(path):
    """name: (type, raw bytes, numbers), row-major."""
    out = {}
    for t in gguf.GGUFReader(path).tensors:
        x = gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float32)
        out[t.name] = t.tensor_type, np.ascontiguousarray(t.data).tobytes(), x.reshape(t.shape[::-1])
    return out


def type_of(name, x, kind):
    """Matrices in few bits, embedding and head in eight, gates and all else as they are."""
    if x.ndim != 2 or x.shape[1] % 32 or GATES.search(name):
        return Type.F32
    return Type.Q8_0 if "embed" in name or name == "lm_head.weight" else TYPES[kind]


def value(reader, key):
    return reader.fields[key].contents()


class Blocks(unittest.TestCase):
    def test_bytes_are_the_package_s(self):
        """Numbers of every size in a block, ties, zeros, and one that stands out."""
        teacher = make_teacher(tied=False, seed=5)
        weights, random = numbers(teacher / "model.safetensors"), np.random.default_rng(3)
        for name, x in weights.items():
            if x.ndim == 2:
                x = x * np.exp2(random.integers(-12, 8, (x.shape[0], 1))).astype(np.float32)
                x[random.random(x.shape) < 0.02] = 0
                x[0] = 0
                x[1] = np.round(random.standard_normal(x.shape[1]) * 4) / 2
                x[2, 3] = -40
                x[3, 5] = 40
                weights[name] = x
        write(teacher / "model.safetensors", weights)
        heads = {"q": TEACHER["num_attention_heads"], "k": TEACHER["num_key_value_heads"]}
        for kind in TYPES:
            with self.subTest(kind):
                written = tensors(quantise(teacher, kind))
                self.assertEqual(set(written), {gguf_name(name) for name in weights})
                for name, x in weights.items():
                    part = re.search(r"self_attn\.([qk])_proj", name)
                    x = in_pairs(x, heads[part[1]]) if part else x
                    as_type, raw, _ = written[gguf_name(name)]
                    want = x.tobytes()
                    number = type_of(name, x, kind)
                    if number != Type.F32:
                        want = gguf.quants.quantize(x, number).tobytes()
                    self.assertEqual(as_type, number, name)
                    self.assertTrue(raw == want, name)


class Models(unittest.TestCase):
    def test_a_transformer(self):
        teacher = make_teacher()
        ids = np.random.default_rng(1).integers(0, TEACHER["vocab_size"], (2, 17))
        for kind in TYPES:
            with self.subTest(kind):
                path = quantise(teacher, kind)
                reader = gguf.GGUFReader(path)
                for key, want in (("context_length", 64), ("embedding_length", 32), ("block_count", 2),
                                  ("feed_forward_length", 48), ("attention.head_count", 4),
                                  ("attention.head_count_kv", 2), ("vocab_size", 384), ("rope.dimension_count", 8)):
                    field = reader.fields["llama." + key]
                    self.assertEqual((field.types, field.contents()), ([Value.UINT32], want), key)
                for key in ("attention.layer_norm_rms_epsilon", "rope.freq_base"):
                    self.assertEqual(reader.fields["llama." + key].types, [Value.FLOAT32])
                self.assertEqual(value(reader, "general.architecture"), "llama")
                self.assertEqual(value(reader, "general.file_type"),
                                 {"q8_0": gguf.LlamaFileType.MOSTLY_Q8_0, "q4_0": gguf.LlamaFileType.MOSTLY_Q4_0}[kind])
                self.assertEqual(value(reader, "general.quantization_version"), gguf.GGML_QUANT_VERSION)
                self.assertEqual(value(reader, "tokenizer.ggml.model"), "gpt2")
                self.assertEqual(len(value(reader, "tokenizer.ggml.tokens")), TEACHER["vocab_size"])
                # Hidden states before the first layer are rows of the embedding, as the package dequantises them.
                rows = tensors(path)["token_embd.weight"][2][ids]
                self.assertTrue((logits(path, ids)["hidden.0"].astype(np.float32) == rows).all())
                self.assertLess(apart(logits(path, ids)["logits"], logits(teacher, ids)["logits"]),
                                0.05 if kind == "q8_0" else 0.5)

    def own(self, student, architecture):
        """A student's file is its folder with the numbers that are left."""
        ids = np.random.default_rng(2).integers(0, TEACHER["vocab_size"], (2, 17))
        weights = numbers(student / "model.safetensors")
        config = json.loads((student / "config.json").read_text())
        for kind in TYPES:
            with self.subTest(kind):
                path, rounded = quantise(student, kind), folder() / "rounded"
                reader, written = gguf.GGUFReader(path), tensors(path)
                self.assertEqual(value(reader, "general.architecture"), architecture)
                self.assertEqual(json.loads(value(reader, "distil_xlstm.config")), config)
                self.assertEqual(set(written), set(weights))
                for name, x in weights.items():
                    number = type_of(name, x, kind)
                    want = gguf.quants.quantize(x, number).tobytes() if number != Type.F32 else x.tobytes()
                    self.assertEqual(written[name][0], number, name)
                    self.assertTrue(written[name][1] == want, name)
                shutil.copytree(student, rounded)
                write(rounded / "model.safetensors", {name: x for name, (_, _, x) in written.items()})
                self.assertLess(apart(logits(path, ids)["logits"], logits(rounded, ids)["logits"]), 1e-12)
                said = {"input": "the student reads".encode()}
                self.assertEqual(distil("tokenize", "--ids", "--tokenizer", path, **said),
                                 distil("tokenize", "--ids", "--tokenizer", student, **said))

    def test_a_student(self):
        teacher = make_teacher()
        tokens, _ = make_tokens(teacher)
        run = folder() / "run"
        distil("train", "--blocks", 2, "--batch", 2, "--length", 16, "--steps", 3, "--lr", 0.01, "--teacher", teacher,
               "--tokens", tokens, "--out", run)
        self.own(run / "student", "distilxlstm")

    def test_a_linearised_student(self):
        teacher = make_teacher()
        tokens, _ = make_tokens(teacher)
        run = folder() / "run"
        distil("linearise", "--batch", 2, "--length", 16, "--align-tokens", 64, "--distil-tokens", 64, "--window", 8,
               "--sinks", 2, "--needle", "none", "--teacher", teacher, "--tokens", tokens, "--out", run)
        self.own(run / "student", "distilxlstmlinear")

    def test_cut_files_are_refused(self):
        path = quantise(make_teacher(), "q4_0")
        whole = path.read_bytes()
        for size in (3, 100, len(whole) // 2, len(whole) - 64):
            path.write_bytes(whole[:size])
            self.assertIn(str(path), refused("logits", "--model", path, "--ids", path, "--out", path))


if __name__ == "__main__":
    unittest.main()
