#!/usr/bin/env python3
"""Writes student/VARIANT/: small student folders with the reference's logits and gradients in float64. Run by hand:

    python3 -m venv venv && venv/bin/pip install -r requirements.txt
    venv/bin/pip install --no-deps xlstm==2.0.6 mlstm_kernels==2.0.6
    venv/bin/python make_students.py
    venv/bin/python make_students.py float32     writes nothing; how far the reference in float32 is from these files

The reference is the PyPI package xlstm 2.0.6 (backend vanilla) under torch 2.15.0 (CPU), Python 3.11. Each folder has
    config.json            xlstm_cfg = dataclasses.asdict(xLSTMLMModelConfig)
    model.safetensors      weights from a hash of their names (below)
    expected.safetensors   ids I32 [B,S]; F64: logits, last_hidden (after the final norm), W, and grad.NAME of
                           sum(W * logits)
All but the first round widths up to a multiple of 16, not 64, to be small.
"""
import copy
import dataclasses
import json
import pathlib
import shutil
import sys

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from xlstm import (FeedForwardConfig, mLSTMBlockConfig, mLSTMLayerConfig, sLSTMBlockConfig, sLSTMLayerConfig,
                   xLSTMLMModel, xLSTMLMModelConfig)

BASE = dict(vocab=32, d=16, blocks=2, slstm_at=[0], mlstm_heads=4, slstm_heads=4, mlstm_conv=4, slstm_conv=4, bs=4,
            act="gelu", factor=1.3, multiple=16, bias=False, tie=False, norm=True, context=16, written_context=None,
            batch=2, length=12, feed_forward=True, stored=torch.float32)
NARROW = dict(d=8, vocab=24)
SLSTM_ONLY = NARROW | dict(blocks=1, slstm_at=[0])
VARIANTS = {
    "base": dict(multiple=64),
    "no_slstm": dict(slstm_at=[]),
    "all_slstm": dict(slstm_at=[0, 1]),
    "slstm_last": NARROW | dict(slstm_at=[1]),
    "conv_2": NARROW | dict(mlstm_conv=2, slstm_conv=2),
    "conv_3": NARROW | dict(mlstm_conv=3, slstm_conv=3),
    "conv_4_and_none": NARROW | dict(slstm_conv=0),
    "heads_1": dict(mlstm_heads=1, slstm_heads=1),
    "heads_2": NARROW | dict(mlstm_heads=2, slstm_heads=2),
    "heads_8": dict(mlstm_heads=8, slstm_heads=8),
    "heads_2_and_4": NARROW | dict(mlstm_heads=2, slstm_heads=4),
    "qkv_8": dict(bs=8),
    "qkv_16": dict(bs=16),
    "act_relu": SLSTM_ONLY | dict(act="relu"),
    "act_relu_squared": SLSTM_ONLY | dict(act="relu^2"),
    "act_sigmoid": SLSTM_ONLY | dict(act="sigmoid"),
    "act_swish": SLSTM_ONLY | dict(act="swish"),
    "act_selu": SLSTM_ONLY | dict(act="selu"),
    "no_feed_forward": SLSTM_ONLY | dict(feed_forward=False),
    "bias": NARROW | dict(bias=True),
    "tied": NARROW | dict(tie=True),
    "beyond_context": dict(context=40, written_context=16, length=40, batch=1),
    "no_post_blocks_norm": NARROW | dict(norm=False),
    "length_1": NARROW | dict(length=1),
    "length_70": dict(context=70, length=70, batch=1),
    "stored_bf16": NARROW | dict(stored=torch.bfloat16),
    "stored_f16": NARROW | dict(stored=torch.float16),
}


def hashed(name, count):
    """`count` numbers in [-1, 1): SplitMix64 of FNV-1a-64(name) + index."""
    h = 0xCBF29CE484222325
    for byte in name.encode():
        h = ((h ^ byte) * 0x100000001B3) & (2**64 - 1)
    with np.errstate(over="ignore"):
        x = np.uint64(h) + np.arange(count, dtype=np.uint64)
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
    return (x >> np.uint64(40)).astype(np.float64) / 2.0**23 - 1.0


def weight(name, shape):
    def base_and_scale():
        for part, numbers in (("norm", (0, 0.25)), ("learnable_skip", (1, 0.25)), ("_recurrent_kernel_", (0, 0.5)),
                              ("_bias_", (0, 1))):
            if part in name:
                return numbers
        if name.endswith("fgate.bias"):
            return 3, 1
        if name.endswith("igate.bias"):
            return 0, 1
        if "bias" in name:
            return 0, 0.25
        if "embedding" in name:
            return 0, 1
        if "mlstm_cell.igate" in name or "mlstm_cell.fgate" in name:
            return 0, 0.25
        return 0, 0.5

    base, scale = base_and_scale()
    return torch.from_numpy((base + scale * hashed(name, int(np.prod(shape)))).astype(np.float32).reshape(shape))


def config(v):
    mlstm = mLSTMBlockConfig(mlstm=mLSTMLayerConfig(
        conv1d_kernel_size=v["mlstm_conv"], qkv_proj_blocksize=v["bs"], num_heads=v["mlstm_heads"], proj_factor=2.0,
        round_proj_up_to_multiple_of=v["multiple"]))
    feed_forward = FeedForwardConfig(proj_factor=v["factor"], act_fn=v["act"], bias=v["bias"],
                                     round_proj_up_to_multiple_of=v["multiple"])
    slstm = sLSTMBlockConfig(
        slstm=sLSTMLayerConfig(backend="vanilla", num_heads=v["slstm_heads"], conv1d_kernel_size=v["slstm_conv"],
                               bias_init="powerlaw_blockdependent", dtype="float32",
                               enable_automatic_mixed_precision=False),
        feedforward=feed_forward if v["feed_forward"] else None)
    everywhere = len(v["slstm_at"]) == v["blocks"]
    return xLSTMLMModelConfig(
        mlstm_block=None if everywhere else mlstm, slstm_block=slstm if v["slstm_at"] else None,
        context_length=v["context"], num_blocks=v["blocks"], embedding_dim=v["d"], add_post_blocks_norm=v["norm"],
        bias=v["bias"], slstm_at=list(v["slstm_at"]), vocab_size=v["vocab"], tie_weights=v["tie"])


def write(folder, v):
    cfg = config(v)
    as_written = dataclasses.asdict(copy.deepcopy(cfg))
    if v["written_context"]:
        as_written["context_length"] = v["written_context"]
        if as_written["mlstm_block"]:
            as_written["mlstm_block"]["mlstm"]["context_length"] = v["written_context"]
    model = xLSTMLMModel(cfg)
    model.reset_parameters()
    parameters = dict(model.named_parameters())
    stored = {name: weight(name, p.shape).to(v["stored"]) for name, p in parameters.items()}
    model = model.double()
    with torch.no_grad():
        for name, p in parameters.items():
            p.copy_(stored[name].double())
    s, b = np.arange(v["length"]), np.arange(v["batch"])[:, None]
    ids = torch.from_numpy(((7 * s + 13 * b + s * s % 5) % v["vocab"]).astype(np.int32))
    hidden = []
    hook = model.xlstm_block_stack.register_forward_hook(lambda module, args, out: hidden.append(out.detach()))
    logits = model(ids.long())
    hook.remove()
    w = torch.from_numpy(hashed("W", logits.numel())).reshape(logits.shape)
    gradients = torch.autograd.grad((w * logits).sum(), list(parameters.values()))
    expected = {"ids": ids, "logits": logits.detach(), "last_hidden": hidden[0], "W": w}
    expected |= {"grad." + name: g for name, g in zip(parameters, gradients)}
    for name, x in expected.items():
        assert name == "ids" or (x.dtype == torch.float64 and bool(torch.isfinite(x).all())), name
    folder.mkdir(parents=True)
    dtype = str(v["stored"]).removeprefix("torch.")
    (folder / "config.json").write_text(json.dumps({"architectures": ["DistilxLSTM"], "model_type": "distil_xlstm",
                                                    "torch_dtype": dtype, "xlstm_cfg": as_written}, indent=1) + "\n")
    save_file({k: x.contiguous() for k, x in stored.items()}, folder / "model.safetensors", metadata={"format": "pt"})
    save_file({k: x.contiguous() for k, x in expected.items()}, folder / "expected.safetensors")
    for file in folder.iterdir():
        file.chmod(0o644)


def print_float32_errors(folder, v):
    """max |difference| / max |gradient| of every tensor."""
    model = xLSTMLMModel(config(v)).float()
    stored, expected = (load_file(folder / name) for name in ("model.safetensors", "expected.safetensors"))
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, p in parameters.items():
            p.copy_(stored[name].float())
    logits = model(expected["ids"].long())
    gradients = torch.autograd.grad((expected["W"].float() * logits).sum(), list(parameters.values()))
    for name, got in zip(parameters, gradients):
        want = expected["grad." + name]
        error = (got.double() - want).abs().max() / want.abs().max().clamp_min(1e-300)
        print(f"{folder.name} {name} {error.item():.1e}")


def main():
    torch.set_num_threads(1)
    root = pathlib.Path(__file__).resolve().parent / "student"
    if sys.argv[1:] == ["float32"]:
        for name, changes in VARIANTS.items():
            print_float32_errors(root / name, BASE | changes)
        return
    shutil.rmtree(root, ignore_errors=True)
    for name, changes in VARIANTS.items():
        write(root / name, BASE | changes)
        print(name, sum(f.stat().st_size for f in (root / name).iterdir()))


if __name__ == "__main__":
    main()
