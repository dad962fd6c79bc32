"""GGUF files of the package gguf's writer: numbers bit for bit, keys, whole models."""
import json
import re
import unittest

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

from common import apart, distil, folder, logits, random_teacher, write_teacher

TYPES = [Type.F32, Type.F16, Type.BF16, Type.Q8_0, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q4_K, Type.Q6_K]
HALVES = {Type.Q8_0: [0], Type.Q4_0: [0], Type.Q4_1: [0, 2], Type.Q5_0: [0], Type.Q4_K: [0, 2], Type.Q6_K: [208]}
SHAPE = dict(vocab_size=48, hidden_size=256, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-5, rope_theta=1e4)
NAMES = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
         "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
         "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}


def random_blocks(kind, rows, cols, random, largest=None):
    """Bytes of random numbers; every half in them finite, or up to `largest`."""
    per, size = gguf.GGML_QUANT_SIZES[kind]
    if kind in (Type.F32, Type.F16):
        dtype = {Type.F32: np.uint32, Type.F16: np.uint16}[kind]
        bits = random.integers(0, np.iinfo(dtype).max, (rows, cols), dtype, endpoint=True)
        x = bits.view({Type.F32: np.float32, Type.F16: np.float16}[kind])
        return np.where(np.isfinite(x), x, 0).astype(x.dtype)
    raw = random.integers(0, 256, (rows, cols // per, size), np.uint8)
    if kind == Type.BF16:
        raw[..., 1] = np.where((raw[..., 1] & 0x7F) == 0x7F, raw[..., 1] & 0xBF, raw[..., 1])
    for at in HALVES.get(kind, []):
        if largest is None:  # any half that is finite, subnormal ones and -0 among them
            upper = raw[..., at + 1]
            raw[..., at + 1] = np.where((upper & 0x7C) == 0x7C, upper & 0x83, upper)
        else:
            half = (largest * random.uniform(0.2, 1, raw.shape[:2])).astype(np.float16)
            raw[..., at:at + 2] = half[..., None].view(np.uint8)
    return raw.reshape(rows, -1)


def quantised(x, kind, random):
    """A matrix in that type: as the writer's package makes it, or (it makes no K types) numbers of a similar size."""
    if kind in (Type.Q4_K, Type.Q6_K):
        steps = 15 * 63 * 0.5 if kind == Type.Q4_K else 16 * 64
        return random_blocks(kind, *x.shape, random, largest=2 * float(np.abs(x).mean()) / steps)
    return gguf.quants.quantize(x, kind)


def dequantised(x, kind):
    return gguf.quants.dequantize(x, kind).astype(np.float32)


def in_pairs(w, heads):
    """The rows of q and k as llama.cpp's converter orders them."""
    return w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def write_gguf(path, c, tensors, more=lambda writer: None):
    """tensors: {GGUF name: (bytes or floats, type)}"""
    w = gguf.GGUFWriter(path, "llama")
    w.add_vocab_size(c["vocab_size"])
    w.add_context_length(c["max_position_embeddings"])
    w.add_embedding_length(c["hidden_size"])
    w.add_block_count(c["num_hidden_layers"])
    w.add_feed_forward_length(c["intermediate_size"])
    w.add_head_count(c["num_attention_heads"])
    w.add_head_count_kv(c["num_key_value_heads"])
    w.add_layer_norm_rms_eps(c["rms_norm_eps"])
    w.add_rope_freq_base(c["rope_theta"])
    w.add_rope_dimension_count(c["hidden_size"] // c["num_attention_heads"])
    more(w)
    for name, (x, kind) in tensors.items():
        w.add_tensor(name, x, raw_dtype=kind)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def gguf_name(name):
    ends = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
            "lm_head.weight": "output.weight"}
    if name in ends:
        return ends[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{NAMES[rest.removesuffix('.weight')]}.weight"


def forward(c, w, ids):
    """The logits of a llama by its Hugging Face tensors, in float64."""
    d, heads, kv = c["hidden_size"], c["num_attention_heads"], c["num_key_value_heads"]
    head, (batch, time) = d // heads, ids.shape
    w = {k: x.astype(np.float64) for k, x in w.items()}
    norm = lambda x, name: w[name] * x / np.sqrt((x * x).mean(-1, keepdims=True) + c["rms_norm_eps"])
    angle = np.arange(time)[:, None] * c["rope_theta"] ** (-np.arange(0, head, 2) / head)
    cos, sin = (np.concatenate((f(angle), f(angle)), -1) for f in (np.cos, np.sin))
    turn = lambda x: x * cos + np.concatenate((-x[..., head // 2:], x[..., :head // 2]), -1) * sin
    split = lambda x, n: x.reshape(batch, time, n, head).transpose(0, 2, 1, 3)
    x = w["model.embed_tokens.weight"][ids]
    for i in range(c["num_hidden_layers"]):
        at = f"model.layers.{i}."
        h = norm(x, at + "input_layernorm.weight")
        q, k, v = (h @ w[f"{at}self_attn.{n}_proj.weight"].T for n in "qkv")
        q, k, v = turn(split(q, heads)), turn(split(k, kv)), split(v, kv)
        k, v = (np.repeat(y, heads // kv, 1) for y in (k, v))
        s = q @ k.swapaxes(-1, -2) / np.sqrt(head)
        s = np.where(np.tri(time, dtype=bool), s, -np.inf)
        p = np.exp(s - s.max(-1, keepdims=True))
        a = (p / p.sum(-1, keepdims=True)) @ v
        x = x + a.transpose(0, 2, 1, 3).reshape(batch, time, d) @ w[at + "self_attn.o_proj.weight"].T
        h = norm(x, at + "post_attention_layernorm.weight")
        g = h @ w[at + "mlp.gate_proj.weight"].T
        x = x + (g / (1 + np.exp(-g)) * (h @ w[at + "mlp.up_proj.weight"].T)) @ w[at + "mlp.down_proj.weight"].T
    x = norm(x, "model.norm.weight")
    return x @ w.get("lm_head.weight", w["model.embed_tokens.weight"]).T


class Numbers(unittest.TestCase):
    def test_bit_for_bit(self):
        """The embedding's rows, which `distil logits` writes as hidden.0, are the package's floats."""
        c = SHAPE | dict(num_hidden_layers=1, tie_word_embeddings=False)
        plain = {gguf_name(k): (x, Type.F32) for k, x in random_teacher(c, 3).items()}
        for kind in TYPES:
            with self.subTest(kind.name):
                random, path = np.random.default_rng(int(kind)), folder() / "model.gguf"
                raw = random_blocks(kind, c["vocab_size"], c["hidden_size"], random)
                write_gguf(path, c, plain | {"token_embd.weight": (raw, kind)})
                want = dequantised(raw, kind)
                got = logits(path, np.arange(c["vocab_size"]).reshape(4, -1))["hidden.0"].reshape(want.shape)
                self.assertTrue(np.isfinite(want).all() and len(np.unique(want)) > 2000)
                self.assertTrue((got.astype(np.float32).view(np.uint32) == want.view(np.uint32)).all())
                self.assertTrue((got == want).all())


class Models(unittest.TestCase):
    def test_every_type(self):
        for tied in (False, True):
            c = SHAPE | dict(tie_word_embeddings=tied)
            for kind in TYPES:
                with self.subTest(kind.name, tied=tied):
                    random, place = np.random.default_rng(100 + int(kind)), folder()
                    stored, exact = {}, {}
                    for name, x in random_teacher(c, int(kind)).items():
                        heads = {"q": c["num_attention_heads"], "k": c["num_key_value_heads"]}
                        part = re.search(r"self_attn\.([qk])_proj", name)
                        if x.ndim == 1:
                            stored[gguf_name(name)], exact[name] = (x, Type.F32), x
                        else:
                            y = quantised(in_pairs(x, heads[part[1]]) if part else x, kind, random)
                            stored[gguf_name(name)], z = (y, kind), dequantised(y, kind)
                            if part:  # back to halves
                                n = heads[part[1]]
                                z = z.reshape(n, len(z) // n // 2, 2, -1).swapaxes(1, 2).reshape(z.shape)
                            exact[name] = z
                    write_gguf(place / "model.gguf", c, stored)
                    write_teacher(place / "folder", c, exact)
                    ids = random.integers(0, c["vocab_size"], (2, 17))
                    want = forward(c, exact, ids)
                    for model in ("model.gguf", "folder"):
                        self.assertLess(apart(logits(place / model, ids)["logits"], want), 1e-11, model)
                        self.assertLess(apart(logits(place / model, ids, "fp32")["logits"], want), 2e-5, model)


class Keys(unittest.TestCase):
    def test_every_kind_of_value(self):
        c, path = SHAPE | dict(num_hidden_layers=1, tie_word_embeddings=True), folder() / "model.gguf"
        values = dict(uint8=200, int8=-7, uint16=60000, int16=-300, uint32=4000000000, int32=-70000, uint64=2**63,
                      int64=-2**40, float32=0.5, float64=0.1, bool=True, string="h\u00e9llo")

        def more(w):
            for kind, value in values.items():
                getattr(w, f"add_{kind}")(f"test.{kind}", value)
            w.add_array("test.array", [1, 2, 3])
            w.add_array("test.strings", ["a", "", "\u4e2d"])

        tensors = {gguf_name(k): (x, Type.F32) for k, x in random_teacher(c, 3).items()}
        write_gguf(path, c, tensors, more)
        shown = distil("inspect", path).decode()
        for kind in values.keys() - {"uint64"}:
            said = json.dumps(values[kind], ensure_ascii=False).strip('"')
            self.assertRegex(shown, rf"(?m)^  test\.{kind} +{re.escape(said)}$")
        for array in ("array", "strings"):
            self.assertRegex(shown, rf"(?m)^  test\.{array} +array of 3$")
        reader = gguf.GGUFReader(path)
        for t in reader.tensors:
            shape = ", ".join(str(n) for n in reversed(t.shape.tolist()))
            self.assertRegex(shown, rf"(?m)^  {re.escape(t.name)} +{t.tensor_type.name} +\[{shape}\]$")
        self.assertIn(f"{len(reader.tensors)} tensors", shown)


if __name__ == "__main__":
    unittest.main()
