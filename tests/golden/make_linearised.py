#!/usr/bin/env python3
"""Transformers of the Llama and Qwen2 family whose layers have other mixers, in PyTorch, as the formulas say it: for
reading, for opening such folders in Python, and for the numbers in linearised/NAME/. Run by hand:

    python3 make_linearised.py            writes linearised/NAME/ (Debian's torch 1.13.1, safetensors 0.8.0, CPU)

    from make_linearised import open_folder
    logits = open_folder("folder")(ids)   ids [B,S]; float64

A folder has config.json, the teacher's own and besides
    "linearised": {"mixers": [one a layer: "attention", "window", "mlstm" or "hybrid"],
                   "window": tokens, "sinks": tokens, "features": of one softmax, "both_signs": true or false}
and model.safetensors with the teacher's names and besides, in layers with a memory,
    self_attn.q_features.weight, self_attn.k_features.weight   [heads, head_dim, features]
    self_attn.gates.weight [G heads, hidden], self_attn.gates.bias [G heads]   all heads' input gates, then the forget
                                                 gates, then (hybrid: G is 3, mlstm: 2) the output gates
expected.safetensors: ids, start I32 [B,S] (where the token's document begins, -1: before the call); F64: logits, W and
grad.NAME of sum(W * logits).
"""
import json
import math
import pathlib
import shutil

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn


class RMSNorm(nn.Module):
    def __init__(self, width, epsilon):
        super().__init__()
        self.weight, self.epsilon = nn.Parameter(torch.ones(width)), epsilon

    def forward(self, x):
        return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.epsilon)


class MLP(nn.Module):
    def __init__(self, c):
        super().__init__()
        wide, narrow = c["intermediate_size"], c["hidden_size"]
        self.gate_proj, self.up_proj = (nn.Linear(narrow, wide, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(wide, narrow, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Features(nn.Module):
    """phi(z) = [softmax(z W), softmax(-z W)], or its first half; a W each head."""

    def __init__(self, heads, width, features, both):
        super().__init__()
        self.weight, self.both = nn.Parameter(torch.zeros(heads, width, features)), both

    def forward(self, z):  # [B, heads, S, width]
        z = z @ self.weight
        return torch.cat([z.softmax(-1), (-z).softmax(-1)], -1) if self.both else z.softmax(-1)


def rotate(z, positions, theta):
    """The pair (i, i + width / 2) of z [B, heads, S, width] by position * theta^(-2 i / width)."""
    half = z.shape[-1] // 2
    angles = positions[:, None, :, None] * theta ** (-torch.arange(half) / half)
    a, b = z[..., :half], z[..., half:]
    return torch.cat([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()], -1)


class Mixer(nn.Module):
    def __init__(self, c, kind):
        super().__init__()
        own = c["linearised"]
        self.kind, self.window, self.sinks = kind, own["window"], own["sinks"]
        self.heads, self.keys, self.theta = c["num_attention_heads"], c["num_key_value_heads"], c["rope_theta"]
        self.width = c.get("head_dim") or c["hidden_size"] // self.heads
        bias = c["model_type"] == "qwen2"
        self.q_proj = nn.Linear(c["hidden_size"], self.heads * self.width, bias=bias)
        self.k_proj, self.v_proj = (nn.Linear(c["hidden_size"], self.keys * self.width, bias=bias) for _ in range(2))
        self.o_proj = nn.Linear(self.heads * self.width, c["hidden_size"], bias=False)
        if kind in ("mlstm", "hybrid"):
            self.q_features, self.k_features = (
                Features(self.heads, self.width, own["features"], own["both_signs"]) for _ in range(2))
            self.gates = nn.Linear(c["hidden_size"], (3 if kind == "hybrid" else 2) * self.heads)

    def forward(self, x, places):
        B, S, _ = x.shape
        split = lambda z: z.view(B, S, -1, self.width).transpose(1, 2)  # noqa: E731
        shared = lambda z: z.repeat_interleave(self.heads // self.keys, 1)  # noqa: E731
        q = rotate(split(self.q_proj(x)), places.position, self.theta)
        k = shared(rotate(split(self.k_proj(x)), places.position, self.theta))
        v = shared(split(self.v_proj(x)))
        if self.kind == "attention":
            h = self.attend(q, k, v, places.seen)
        elif self.kind == "window":
            h = self.attend(q, k, v, places.near(self.window, self.sinks))
        else:
            i, f, *o = self.gates(x).transpose(1, 2).split(self.heads, 1)  # [B, heads, S]
            h = self.remember(self.q_features(q), self.k_features(k), v, i, f, places.seen)
            if self.kind == "hybrid":
                o = o[0].sigmoid()[..., None]
                h = o * h + (1 - o) * self.attend(q, k, v, places.near(self.window, self.sinks))
        return self.o_proj(h.transpose(1, 2).reshape(B, S, -1))

    def attend(self, q, k, v, seen):
        scores = q @ k.transpose(-1, -2) / math.sqrt(self.width)
        return scores.masked_fill(~seen, -math.inf).softmax(-1) @ v

    @staticmethod
    def remember(q, k, v, i, f, seen):
        """C <- sigmoid(f) C + exp(i) k v^T, n <- sigmoid(f) n + exp(i) k, C^T q / (n . q), token s weighing
        exp(i_s + log sigmoid(f_{s+1}) + ... + log sigmoid(f_t)) at token t."""
        total = F.logsigmoid(f).cumsum(-1)
        log_weight = (total[..., :, None] - total[..., None, :] + i[..., None, :]).masked_fill(~seen, -math.inf)
        # The largest weight becomes 1: it cancels.
        weight = torch.exp(log_weight - log_weight.detach().amax(-1, keepdim=True)) * (q @ k.transpose(-1, -2))
        return weight @ v / weight.sum(-1, keepdim=True)


class Places:
    """Where tokens [B,S] stand in their documents, and what each may see: [B, 1, token, what it looks at]."""

    def __init__(self, start):
        t = torch.arange(start.shape[1])
        self.first = start.clamp_min(0).long()
        self.position = t - self.first
        self.seen = ((t[None, None, :] <= t[None, :, None]) & (t[None, None, :] >= self.first[:, :, None]))[:, None]

    def near(self, window, sinks):
        t = torch.arange(self.first.shape[1])
        close = t[None, :] > t[:, None] - window
        sink = t[None, None, :] < self.first[:, :, None] + sinks
        return self.seen & (close[None] | sink)[:, None]


class Layer(nn.Module):
    def __init__(self, c, kind):
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = (
            RMSNorm(c["hidden_size"], c["rms_norm_eps"]) for _ in range(2))
        self.self_attn, self.mlp = Mixer(c, kind), MLP(c)

    def forward(self, x, places):
        x = x + self.self_attn(self.input_layernorm(x), places)
        return x + self.mlp(self.post_attention_layernorm(x))


class Stack(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.embed_tokens = nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.layers = nn.ModuleList(Layer(c, kind) for kind in c["linearised"]["mixers"])
        self.norm = RMSNorm(c["hidden_size"], c["rms_norm_eps"])


class Linearised(nn.Module):
    """ids [B,S] to logits [B,S,V]; `start` as in expected.safetensors, without it each row is one document."""

    def __init__(self, c):
        super().__init__()
        assert c["model_type"] in ("llama", "qwen2") and not c.get("rope_scaling") and not c.get("attention_bias")
        assert len(c["linearised"]["mixers"]) == c["num_hidden_layers"]
        self.model, self.tied = Stack(c), c["tie_word_embeddings"]
        if not self.tied:
            self.lm_head = nn.Linear(c["hidden_size"], c["vocab_size"], bias=False)

    def forward(self, ids, start=None):
        places = Places(torch.full_like(ids, -1) if start is None else start)
        x = self.model.embed_tokens(ids)
        for layer in self.model.layers:
            x = layer(x, places)
        return F.linear(self.model.norm(x), self.model.embed_tokens.weight if self.tied else self.lm_head.weight)


def open_folder(folder, dtype=torch.float64):
    folder = pathlib.Path(folder)
    torch.set_default_dtype(dtype)
    model = Linearised(json.loads((folder / "config.json").read_text()))
    model.load_state_dict({k: x.to(dtype) for k, x in load_file(folder / "model.safetensors").items()}, strict=True)
    return model


# ------------------------------------------------------------------------------------------------ the numbers


def step_by_step(q, k, v, i, f):
    """The memory's definition, token by token, for one document: [heads, S, width]."""
    C, n, out = torch.zeros(q.shape[0], q.shape[2], v.shape[2]), torch.zeros(q.shape[0], q.shape[2]), []
    for t in range(q.shape[1]):
        forget, write = f[:, t].sigmoid(), i[:, t].exp()
        C = forget[:, None, None] * C + write[:, None, None] * k[:, t, :, None] * v[:, t, None, :]
        n = forget[:, None] * n + write[:, None] * k[:, t]
        out.append((q[:, t, None] @ C)[:, 0] / (q[:, t] * n).sum(-1, keepdim=True))
    return torch.stack(out, 1)


def check_memory():
    q, k, v, i, f = (torch.randn(3, 20, *n) for n in ((6,), (6,), (4,), (), ()))
    q, k = q.softmax(-1), k.softmax(-1)
    seen = torch.ones(20, 20, dtype=torch.bool).tril()
    assert torch.allclose(Mixer.remember(q, k, v, i, f, seen), step_by_step(q, k, v, i, f), rtol=1e-12, atol=1e-14)


def write(folder, config, seed, starts):
    torch.manual_seed(seed)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    model = Linearised(config)
    weights = {}
    for name, p in model.state_dict().items():
        mean = 1.0 if "norm" in name else 0.0
        if name.endswith("features.weight"):
            mean = torch.eye(*p.shape[1:])
        weights[name] = (mean + 0.4 * torch.randn_like(p)).float()
    for name in weights:
        if name.endswith("gates.bias"):
            weights[name][config["num_attention_heads"]:2 * config["num_attention_heads"]] += 2
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    model = open_folder(folder)
    start = torch.tensor(starts, dtype=torch.int32)
    ids = torch.randint(config["vocab_size"], start.shape, dtype=torch.int32)
    logits = model(ids, start)
    W = torch.randn_like(logits)
    (W * logits).sum().backward()
    out = {"ids": ids, "start": start, "logits": logits.detach().contiguous(), "W": W}
    out |= {"grad." + name: p.grad for name, p in model.named_parameters()}
    save_file(out, folder / "expected.safetensors")
    for file in folder.iterdir():
        file.chmod(0o644)
    print(folder.name, sum(f.stat().st_size for f in folder.iterdir()))


def starts(length, *begins):
    """-1 until the first document begins, then where it began."""
    out = []
    for t in range(length):
        out.append(max((b for b in begins if b <= t), default=-1))
    return out


def main():
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    check_memory()
    root = pathlib.Path(__file__).resolve().parent / "linearised"
    shutil.rmtree(root, ignore_errors=True)
    both = dict(hidden_size=8, intermediate_size=12, vocab_size=16, max_position_embeddings=64, hidden_act="silu")
    write(root / "llama_tied", both | dict(
        model_type="llama", num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, head_dim=4,
        rope_theta=1e4, rms_norm_eps=1e-5, tie_word_embeddings=True,
        linearised=dict(mixers=["hybrid", "mlstm", "window", "attention"], window=4, sinks=2, features=4,
                        both_signs=True)), 1, [starts(21), starts(21, 0, 9)])
    write(root / "qwen2_untied", both | dict(
        model_type="qwen2", num_hidden_layers=5, num_attention_heads=2, num_key_value_heads=1,
        rope_theta=1e3, rms_norm_eps=1e-6, tie_word_embeddings=False,
        linearised=dict(mixers=["attention", "hybrid", "window", "hybrid", "mlstm"], window=3, sinks=0, features=6,
                        both_signs=False)), 2, [starts(17, 5, 6), starts(17, 0)])


if __name__ == "__main__":
    main()
