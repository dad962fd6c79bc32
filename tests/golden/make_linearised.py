#!/usr/bin/env python3
"""Transformers of the Llama and Qwen2 family whose layers have other mixers, in PyTorch, as the formulas say it: for
reading, for opening such folders in Python, and for the numbers in linearised/NAME/. Run by hand:

    python3 make_linearised.py            writes linearised/NAME/ and linearise/ (Debian's torch 1.13.1, safetensors
                                          0.8.0, CPU)

    from make_linearised import open_folder
    logits = open_folder("folder")(ids)   ids [B,S]; float64

A folder has config.json, the teacher's own but for "model_type": "distil_xlstm_linear", and besides
    "teacher_model_type": the teacher's, "llama" or "qwen2"
    "mixers": [one a layer: "attention", "window", "mlstm" or "hybrid"], "window": tokens, "sinks": tokens,
    "features": "softmax_pm" (of z and of -z) or "softmax"; "feature_count": of one softmax, where it is not head_dim
and model.safetensors with the teacher's names and besides, in layers with a memory,
    self_attn.feature_q.weight, self_attn.feature_k.weight     [heads, head_dim, features]
    self_attn.gates.weight [G heads, hidden], self_attn.gates.bias [G heads]   all heads' input gates, then the forget
                                                 gates, then (hybrid: G is 3, mlstm: 2) the output gates
expected.safetensors: ids, start I32 [B,S] (where the token's document begins, -1: before the call); F64: logits, W and
grad.NAME of sum(W * logits).

linearise/ holds eight steps of each stage of linearisation:
    teacher/, student/     folders; the student is the teacher with new parameters, which both stages start from
    tokens.safetensors     a token file of three documents, 16 windows of 12 tokens
    steps.json             options; of each step alignment (mean over layers), or kl, and grad_norm
    expected.safetensors   F64: align.NAME and distil.NAME after the eighth step; reach.N [heads, 2] of each layer:
                           mass and mean distance of the teacher's attention beyond the window, without the sinks, over the
                           second half of all windows
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


def mixers_of(c):
    """A plain transformer's are attention."""
    return c.get("mixers") or ["attention"] * c["num_hidden_layers"]


class Mixer(nn.Module):
    def __init__(self, c, kind):
        super().__init__()
        self.kind, self.window, self.sinks = kind, c.get("window"), c.get("sinks")
        self.heads, self.keys, self.theta = c["num_attention_heads"], c["num_key_value_heads"], c["rope_theta"]
        self.width = c.get("head_dim") or c["hidden_size"] // self.heads
        bias = c.get("teacher_model_type", c["model_type"]) == "qwen2"
        self.q_proj = nn.Linear(c["hidden_size"], self.heads * self.width, bias=bias)
        self.k_proj, self.v_proj = (nn.Linear(c["hidden_size"], self.keys * self.width, bias=bias) for _ in range(2))
        self.o_proj = nn.Linear(self.heads * self.width, c["hidden_size"], bias=False)
        if kind in ("mlstm", "hybrid"):
            features, both = c.get("feature_count") or self.width, {"softmax_pm": True, "softmax": False}[c["features"]]
            self.feature_q, self.feature_k = (Features(self.heads, self.width, features, both) for _ in range(2))
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
            h = self.remember(self.feature_q(q), self.feature_k(k), v, i, f, places.seen)
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
        u = self.input_layernorm(x)
        a = self.self_attn(u, places)
        self.seen = u, a
        return x + a + self.mlp(self.post_attention_layernorm(x + a))


class Stack(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.embed_tokens = nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.layers = nn.ModuleList(Layer(c, kind) for kind in mixers_of(c))
        self.norm = RMSNorm(c["hidden_size"], c["rms_norm_eps"])


class Linearised(nn.Module):
    """ids [B,S] to logits [B,S,V]; `start` as in expected.safetensors, without it each row is one document."""

    def __init__(self, c):
        super().__init__()
        assert c.get("teacher_model_type", c["model_type"]) in ("llama", "qwen2", "distil_xlstm_linear")
        assert not c.get("rope_scaling") and not c.get("attention_bias")
        assert len(mixers_of(c)) == c["num_hidden_layers"]
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
        if ".feature_" in name:
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


BATCH, LENGTH, STEPS = 2, 12, 8
OPTIONS = dict(batch=BATCH, length=LENGTH, steps=STEPS, beta1=0.9, beta2=0.95, epsilon=1e-8, clip=1.0,
               align=dict(lr=5e-3, bias=4.0, projections=0.1, weight_decay=0.0),
               distil=dict(lr=2e-3, new=5.0, weight_decay=0.1))


def is_new(name):
    return ".feature_" in name or ".gates." in name


def optimiser(model, lr_of, decay):
    groups = []
    for name, p in model.named_parameters():
        p.requires_grad_(lr_of(name) > 0)
        if p.requires_grad:
            groups.append(dict(params=[p], lr=lr_of(name), weight_decay=decay if p.dim() == 2 else 0.0))
    return torch.optim.AdamW(groups, betas=(OPTIONS["beta1"], OPTIONS["beta2"]), eps=OPTIONS["epsilon"])


def step(model, adamw, loss):
    adamw.zero_grad()
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.grad is not None], OPTIONS["clip"])
    adamw.step()
    return float(norm)


def alignment(teacher, student, places, x):
    """Each mixer reads the teacher's normed input of its layer: mean |a - y| / mean |a|, a sum over layers."""
    with torch.no_grad():
        teacher(x, places)
    errors = []
    for of_teacher, layer in zip(teacher.model.layers, student.model.layers):
        if layer.self_attn.kind != "attention":
            u, a = of_teacher.seen
            y = layer.self_attn(u, Places(places))
            size = a.square().sum(-1)
            errors.append(((a - y).square().sum(-1) + 1e-12 * size).sqrt().mean() / size.sqrt().mean())
    return torch.stack(errors)


def reach(teacher, ids, start, window, sinks):
    """[layer][heads, 2]: mass and mean distance of attention beyond the window, but for the sinks."""
    places, out = Places(start), []
    with torch.no_grad():
        teacher(ids, start)
        for layer in teacher.model.layers:
            m, u = layer.self_attn, layer.seen[0]
            split = lambda z: z.view(*ids.shape, -1, m.width).transpose(1, 2)  # noqa: E731
            q = rotate(split(m.q_proj(u)), places.position, m.theta)
            k = rotate(split(m.k_proj(u)), places.position, m.theta).repeat_interleave(m.heads // m.keys, 1)
            p = (q @ k.transpose(-1, -2) / math.sqrt(m.width)).masked_fill(~places.seen, -math.inf).softmax(-1)
            t = torch.arange(ids.shape[1])
            distance = t[:, None] - t[None, :]
            far = (distance >= window)[None] & (t[None, None, :] - places.first[:, :, None] >= sinks)
            p = (p * far[:, None])[:, :, ids.shape[1] // 2:]
            mass, moment = p.sum(-1).mean((0, 2)), (p * distance[ids.shape[1] // 2:]).sum(-1).mean((0, 2))
            out.append(torch.stack([mass, torch.where(mass > 0, moment / mass, mass)], 1))
    return out


def write_steps(folder, config, mixers, seed):
    torch.manual_seed(seed)
    shutil.rmtree(folder, ignore_errors=True)
    for part in ("teacher", "student"):
        (folder / part).mkdir(parents=True)
    own = config | mixers | dict(model_type="distil_xlstm_linear", teacher_model_type=config["model_type"])
    weights = {}
    for name, p in Linearised(own).state_dict().items():
        mean, scale = (1.0 if "norm" in name else 0.0), 1.0 if "embed" in name else 0.4
        if ".feature_" in name:
            mean, scale = torch.eye(*p.shape[1:]), 0.02
        if ".gates." in name:
            scale = 0.1
        weights[name] = (mean + scale * torch.randn_like(p)).float()
    for part, c in (("teacher", config), ("student", own)):
        (folder / part / "config.json").write_text(json.dumps(c, indent=1) + "\n")
        save_file({n: x for n, x in weights.items() if part == "student" or not is_new(n)},
                  folder / part / "model.safetensors", metadata={"format": "pt"})
    count = 16 * LENGTH + 1
    ids, documents = torch.randint(config["vocab_size"], (count,), dtype=torch.int32), torch.tensor([0, 30, 101])
    save_file({"ids": ids, "documents": documents}, folder / "tokens.safetensors",
              metadata={"vocab_size": str(config["vocab_size"])})

    def window(i):
        """ids, targets, start, scored of window i."""
        first = i * LENGTH
        at = [max(int(d) for d in documents if d <= first + t) for t in range(LENGTH + 1)]
        start = torch.tensor([d - first if d >= first else -1 for d in at[:LENGTH]], dtype=torch.int32)
        scored = torch.tensor([at[t] == at[t + 1] for t in range(LENGTH)])
        return ids[first:first + LENGTH].long(), ids[first + 1:first + LENGTH + 1].long(), start, scored

    def batch(which):
        return [torch.stack(x) for x in zip(*(window(i) for i in which))]

    teacher, log, out = open_folder(folder / "teacher"), {}, {}
    x, _, start, _ = batch(range(16))
    for i, r in enumerate(reach(teacher, x, start, mixers["window"], mixers["sinks"])):
        out[f"reach.{i}"] = r
    for stage in ("align", "distil"):
        o, student = OPTIONS[stage], open_folder(folder / "student")
        if stage == "align":
            def lr_of(name, o=o):
                if ".self_attn." not in name or mixers_of(own)[int(name.split(".")[2])] == "attention":
                    return 0
                return o["lr"] * (o["bias"] if name.endswith("gates.bias") else 1 if is_new(name) else o["projections"])
        else:
            def lr_of(name, o=o):
                return o["lr"] * (o["new"] if is_new(name) else 1)
        adamw, log[stage] = optimiser(student, lr_of, o["weight_decay"]), []
        for s in range(STEPS):
            x, _, start, scored = batch(range(s * BATCH, (s + 1) * BATCH))
            if stage == "align":
                errors = alignment(teacher, student, start, x)
                log[stage].append({"alignment": float(errors.mean()), "errors": errors.tolist()})
                loss = errors.sum()
            else:
                with torch.no_grad():
                    want = teacher(x, start)[scored].log_softmax(-1)
                got = student(x, start)[scored].log_softmax(-1)
                loss = (want.exp() * (want - got)).sum(-1).mean()
                log[stage].append({"kl": float(loss)})
            log[stage][-1]["grad_norm"] = step(student, adamw, loss)
        out |= {f"{stage}.{n}": p.detach().clone() for n, p in student.named_parameters()}
    (folder / "steps.json").write_text(json.dumps(dict(options=OPTIONS, **log), indent=1) + "\n")
    save_file(out, folder / "expected.safetensors")
    for file in folder.rglob("*"):
        if file.is_file():
            file.chmod(0o644)


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
        model_type="distil_xlstm_linear", teacher_model_type="llama", num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, head_dim=4, rope_theta=1e4, rms_norm_eps=1e-5, tie_word_embeddings=True,
        mixers=["hybrid", "mlstm", "window", "attention"], window=4, sinks=2, features="softmax_pm"),
        1, [starts(21), starts(21, 0, 9)])
    write(root / "qwen2_untied", both | dict(
        model_type="distil_xlstm_linear", teacher_model_type="qwen2", num_hidden_layers=5, num_attention_heads=2,
        num_key_value_heads=1, rope_theta=1e3, rms_norm_eps=1e-6, tie_word_embeddings=False,
        mixers=["attention", "hybrid", "window", "hybrid", "mlstm"], window=3, sinks=0, features="softmax",
        feature_count=6), 2, [starts(17, 5, 6), starts(17, 0)])
    write_steps(root.parent / "linearise", both | dict(
        model_type="llama", num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, head_dim=4,
        rope_theta=1e4, rms_norm_eps=1e-5, tie_word_embeddings=False),
        dict(mixers=["hybrid", "attention", "window", "mlstm"], window=3, sinks=1, features="softmax_pm"), 3)


if __name__ == "__main__":
    main()
