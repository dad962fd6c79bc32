#!/usr/bin/env python3
"""Writes large/NAME/: tiny Hugging Face folders of model type xlstm with their logits, hidden states and gradients in
float64. Run by hand:

    python3 -m venv venv && venv/bin/pip install -r requirements.txt
    venv/bin/pip install --no-deps xlstm==2.0.6 mlstm_kernels==2.0.6
    venv/bin/python make_large.py

The reference is xLSTMForCausalLM of transformers 5.24.0 over the blocks of xlstm 2.0.6 (chunkwise--native_autograd of
mlstm_kernels 2.0.6, one chunk) under torch 2.15.0 (CPU), Python 3.11. Each folder has config.json, the weights (from a
hash of their names, as in make_students.py) and expected.safetensors: ids I32 [B,S]; F64: logits, hidden.0 (embedding),
hidden.1 .. hidden.N (each block's output), last_hidden (after the final norm), W, and grad.NAME of sum(W * logits).
transformers keeps the final norm and the logits in float32 even in a float64 model: both are made in float64 here.
"""
import json
import pathlib
import shutil

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import xLSTMConfig, xLSTMForCausalLM

from make_students import hashed

BASE = dict(vocab_size=24, hidden_size=8, num_hidden_layers=2, num_heads=2, ffn_round_up_to_multiple_of=8,
            norm_reduction_force_float32=False, mode="train", return_last_states=True, pad_token_id=None)


def weight(name, shape):
    def base_and_scale():
        if "norm" in name:
            return 1, 0.25
        if name.endswith("fgate_preact.bias"):
            return 3, 1
        if name.endswith("igate_preact.bias"):
            return -2, 1
        return 0, 1 if "embedding" in name else 0.5

    base, scale = base_and_scale()
    return torch.from_numpy((base + scale * hashed(name, int(np.prod(shape)))).astype(np.float32).reshape(shape))


def write(folder, batch, length, changes, stored=torch.float32, shards=1, rename=lambda name: name, spelling={}):
    config = xLSTMConfig(**BASE | changes, chunk_size=length)
    model = xLSTMForCausalLM(config).double().train()
    model.backbone.out_norm.force_float32_reductions = False
    parameters = dict(model.named_parameters())
    tied = config.tie_word_embeddings
    if tied:  # this transformers does not tie
        parameters.pop("lm_head.weight")
        model.lm_head.weight = model.backbone.embeddings.weight
    weights = {name: weight(name, p.shape).to(stored) for name, p in parameters.items()}
    with torch.no_grad():
        for name, p in parameters.items():
            p.copy_(weights[name].double())

    folder.mkdir(parents=True)
    written = config.to_dict()
    for key in ("chunk_size", "mode", "norm_reduction_force_float32", "embedding_dim", "num_blocks"):
        written.pop(key)
    written |= {"architectures": ["xLSTMForCausalLM"], "dtype": str(stored).removeprefix("torch.")}
    for new, old in spelling.items():
        written[old] = written.pop(new)
    (folder / "config.json").write_text(json.dumps(written, indent=1) + "\n")
    files = {rename(name): w.contiguous() for name, w in weights.items()}
    if shards == 1:
        save_file(files, folder / "model.safetensors", metadata={"format": "pt"})
    else:
        names = sorted(files)
        where = {name: f"model-{n * shards // len(names) + 1:05d}-of-{shards:05d}.safetensors"
                 for n, name in enumerate(names)}
        for file in sorted(set(where.values())):
            save_file({k: w for k, w in files.items() if where[k] == file}, folder / file, metadata={"format": "pt"})
        total = sum(w.numel() * w.element_size() for w in files.values())
        index = {"metadata": {"total_size": total}, "weight_map": where}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")

    s, b = np.arange(length), np.arange(batch)[:, None]
    ids = torch.from_numpy(((7 * s + 13 * b + s * s % 5) % config.vocab_size).astype(np.int32))
    found = {}
    hooks = [model.backbone.embeddings.register_forward_hook(
        lambda module, args, out: found.__setitem__("hidden.0", out.detach()))]
    for n, block in enumerate(model.backbone.blocks):
        hooks.append(block.register_forward_hook(
            lambda module, args, out, n=n: found.__setitem__(f"hidden.{n + 1}", out[0].detach())))
    last = model.backbone(ids.long(), use_cache=False).last_hidden_state
    for hook in hooks:
        hook.remove()
    cap = config.output_logit_soft_cap
    logits = cap * torch.tanh(last @ model.lm_head.weight.T / cap)
    theirs = model(ids.long(), use_cache=False).logits  # in float32 at the end
    assert (theirs - logits).abs().max() <= 1e-5 * logits.abs().max()
    w = torch.from_numpy(hashed("W", logits.numel())).reshape(logits.shape)
    gradients = torch.autograd.grad((w * logits).sum(), list(parameters.values()))
    found |= {"last_hidden": last.detach(), "logits": logits.detach(), "W": w}
    found |= {"grad." + name: g for name, g in zip(parameters, gradients)}
    for name, x in found.items():
        assert x.dtype == torch.float64 and bool(torch.isfinite(x).all()), name
    save_file({"ids": ids} | {k: x.contiguous() for k, x in found.items()}, folder / "expected.safetensors")
    for file in folder.iterdir():
        file.chmod(0o644)
    print(folder.name, sum(f.stat().st_size for f in folder.iterdir()), "logits to", logits.detach().abs().max().item())


def main():
    torch.set_num_threads(1)
    root = pathlib.Path(__file__).resolve().parent / "large"
    shutil.rmtree(root, ignore_errors=True)
    write(root / "sample", 1, 66, {})
    write(root / "caps", 2, 13, dict(num_heads=4, qk_dim_factor=1.0, v_dim_factor=2.0, gate_soft_cap=1.5,
                                     output_logit_soft_cap=2.0, norm_eps=1e-3, eps=1e-2, ffn_proj_factor=2.05,
                                     num_hidden_layers=1))
    write(root / "tied_sharded_bf16", 1, 5, dict(tie_word_embeddings=True), stored=torch.bfloat16, shards=2,
          rename=lambda n: n.replace("layer.q.", "layer.query.").replace("layer.k.", "layer.key.")
          .replace("layer.v.", "layer.value."),
          spelling=dict(hidden_size="embedding_dim", num_hidden_layers="num_blocks", dtype="torch_dtype"))


if __name__ == "__main__":
    main()
