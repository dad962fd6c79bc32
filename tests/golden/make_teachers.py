#!/usr/bin/env python3
"""Writes teacher/NAME/: tiny random Hugging Face folders with their logits and hidden states in float64. Run by hand:

    python3 -m venv venv && venv/bin/pip install -r requirements.txt
    venv/bin/python make_teachers.py

The reference is transformers 5.23.0 under torch 2.15.0 (CPU), Python 3.11. Each folder has config.json, the weights
and expected.safetensors: ids I32 [B,S]; F64: logits, hidden.0 (embedding), hidden.1 .. hidden.N (each layer's output,
before the final norm), last_hidden (after it). No tokenizer. transformers keeps the rotary table and the norms in
float32 even in a float64 model: both are replaced here, and the model is loaded back from the folder that was written.
"""
import json
import pathlib
import shutil

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config, SmolLM3Config

SHAPE = dict(vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=None)


def inverse_frequencies(rope, head_dim):
    """Of a rope_parameters, in float64."""
    inverse = rope["rope_theta"] ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    if rope["rope_type"] == "linear":
        return inverse / rope["factor"]
    if rope["rope_type"] == "llama3":
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        turns = rope["original_max_position_embeddings"] * inverse / (2 * torch.pi)
        s = ((turns - low) / (high - low)).clamp(0, 1)
        return inverse * ((1 - s) / rope["factor"] + s)
    assert rope["rope_type"] == "default", rope
    return inverse


class Rotary(torch.nn.Module):
    """The rotary table in the precision of its input."""

    def __init__(self, inverse):
        super().__init__()
        self.inverse = inverse

    def forward(self, x, position_ids):
        angles = position_ids[..., None].double() * self.inverse
        angles = torch.cat((angles, angles), -1)
        return angles.cos().to(x.dtype), angles.sin().to(x.dtype)


def rms_norm(self, x):
    return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))


def in_float64(folder):
    """The folder's model, wholly in float64."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="sdpa").eval()
    c = model.config
    head_dim = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
    inverse, stored = inverse_frequencies(c.rope_parameters, head_dim), model.model.rotary_emb.inv_freq.double()
    assert ((inverse - stored).abs() <= 1e-6 * inverse).all(), (inverse, stored)
    model.model.rotary_emb = Rotary(inverse)
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = rms_norm.__get__(module)
    return model


@torch.no_grad()
def states(model, ids):
    """logits, last_hidden and hidden.0 .. hidden.N of ids [B,S]."""
    inner, found = model.model, {}

    def keep(name):
        return lambda module, args, out: found.__setitem__(name, (out[0] if isinstance(out, tuple) else out).clone())

    hooks = [inner.embed_tokens.register_forward_hook(keep("hidden.0")),
             inner.norm.register_forward_hook(keep("last_hidden"))]
    hooks += [layer.register_forward_hook(keep(f"hidden.{n}")) for n, layer in enumerate(inner.layers, 1)]
    found["logits"] = model(ids.long(), use_cache=False).logits
    for hook in hooks:
        hook.remove()
    return found


def write(folder, config, seed, spelling, stored=torch.float32, shards=1, leave_out=()):
    random = np.random.default_rng(seed)
    model = AutoModelForCausalLM.from_config(config)
    weights = {}
    for name, p in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        mean, scale = (1.0, 0.25) if "norm" in name else (0.0, 0.3 if p.dim() == 1 else 0.25)
        numbers = mean + scale * random.standard_normal(tuple(p.shape))
        weights[name] = torch.from_numpy(numbers.astype(np.float32)).to(stored)
    folder.mkdir(parents=True)

    written = json.loads(config.to_json_string(use_diff=False))
    for key in ("dtype", "torch_dtype", "rope_parameters", "_name_or_path", "transformers_version", "id2label",
                "label2id", "problem_type", "output_attentions", "output_hidden_states", "return_dict",
                "chunk_size_feed_forward", "is_encoder_decoder", *leave_out):
        written.pop(key, None)
    rope = {k: v for k, v in config.rope_parameters.items() if v is not None}
    dtype = str(stored).removeprefix("torch.")
    if spelling == "new":
        written |= {"rope_parameters": rope, "dtype": dtype, "transformers_version": "5.23.0"}
    else:
        written |= {"rope_theta": rope["rope_theta"], "torch_dtype": dtype, "transformers_version": "4.44.0"}
        scaling = {("type" if k == "rope_type" else k): v for k, v in rope.items() if k != "rope_theta"}
        if config.model_type == "llama":
            written["rope_scaling"] = None if rope["rope_type"] == "default" else scaling
        written.pop("layer_types", None)
    written["architectures"] = [type(model).__name__]
    (folder / "config.json").write_text(json.dumps(written, indent=1) + "\n")

    if shards == 1:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    else:
        files, names = {}, sorted(weights)
        for n, name in enumerate(names):
            files[name] = f"model-{n * shards // len(names) + 1:05d}-of-{shards:05d}.safetensors"
        for file in sorted(set(files.values())):
            save_file({k: w for k, w in weights.items() if files[k] == file}, folder / file, metadata={"format": "pt"})
        total = sum(w.numel() * w.element_size() for w in weights.values())
        index = {"metadata": {"total_size": total}, "weight_map": files}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")

    ids = torch.from_numpy(random.integers(0, config.vocab_size, (2, 9)).astype(np.int32))
    model = in_float64(folder)
    for name, p in model.state_dict().items():
        assert name not in weights or bool((p == weights[name].double()).all()), name
    found = states(model, ids)
    plain = states(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), ids)
    for name, x in found.items():
        assert x.dtype == torch.float64
        assert (x - plain[name]).abs().max() <= 2e-5 * x.abs().max(), name
    save_file({"ids": ids} | {k: x.contiguous() for k, x in found.items()}, folder / "expected.safetensors")
    for file in folder.iterdir():
        file.chmod(0o644)
    print(folder.name, sum(f.stat().st_size for f in folder.iterdir()))


def rope(theta):
    return {"rope_type": "default", "rope_theta": theta}


def main():
    torch.set_num_threads(1)
    root = pathlib.Path(__file__).resolve().parent / "teacher"
    shutil.rmtree(root, ignore_errors=True)
    write(root / "qwen2_tied", Qwen2Config(**SHAPE, rope_parameters=rope(1e6), tie_word_embeddings=True,
                                           rms_norm_eps=1e-6), 1, "new")
    write(root / "qwen2_rope_theta", Qwen2Config(**SHAPE, rope_parameters=rope(3e4), tie_word_embeddings=False,
                                                 rms_norm_eps=1e-5), 2, "old")
    write(root / "llama_sharded_head_dim", LlamaConfig(**SHAPE, head_dim=12, rope_parameters=rope(1e4),
                                                       tie_word_embeddings=False, rms_norm_eps=1e-5), 3, "old",
          shards=2)
    write(root / "llama_rope_parameters", LlamaConfig(**SHAPE, rope_parameters=rope(1e5), tie_word_embeddings=True,
                                                      rms_norm_eps=1e-5), 4, "new")
    write(root / "llama_bf16", LlamaConfig(**SHAPE | dict(num_hidden_layers=3, num_key_value_heads=4),
                                           rope_parameters=rope(1e4), tie_word_embeddings=False, rms_norm_eps=1e-6), 5,
          "new", stored=torch.bfloat16)
    # Pairs of all three kinds: one turns often enough, two are between, five are slowed wholly.
    llama3 = rope(100.0) | {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                            "original_max_position_embeddings": 32}
    write(root / "llama3_scaling", LlamaConfig(**SHAPE, head_dim=16, rope_parameters=llama3, tie_word_embeddings=True,
                                               rms_norm_eps=1e-5), 6, "new", stored=torch.bfloat16)
    write(root / "llama_linear_scaling", LlamaConfig(**SHAPE, rope_parameters=rope(1e4) | {"rope_type": "linear",
                                                                                           "factor": 2.5},
                                                     tie_word_embeddings=True, rms_norm_eps=1e-5), 7, "old",
          stored=torch.bfloat16)
    narrow = dict(tie_word_embeddings=True, rms_norm_eps=1e-6)
    write(root / "qwen3", Qwen3Config(**SHAPE, **narrow, head_dim=12, rope_parameters=rope(1e6)), 8, "new",
          stored=torch.bfloat16)
    write(root / "qwen3_bias", Qwen3Config(**SHAPE, **narrow, head_dim=16, rope_parameters=rope(1e4),
                                           attention_bias=True), 9, "old", stored=torch.bfloat16)
    deep = SHAPE | dict(num_hidden_layers=4)
    write(root / "smollm3", SmolLM3Config(**deep, **narrow, rope_parameters=rope(1e4)), 10, "new",
          stored=torch.bfloat16)
    # Which layers rotate is not said, or the first does not.
    write(root / "smollm3_interval", SmolLM3Config(**SHAPE, **narrow, rope_parameters=rope(1e4),
                                                   no_rope_layer_interval=2), 11, "old", stored=torch.bfloat16,
          leave_out=("no_rope_layers",))
    write(root / "smollm3_first", SmolLM3Config(**SHAPE, **narrow, rope_parameters=rope(1e4), attention_bias=True,
                                                no_rope_layers=[0, 1]), 12, "new", stored=torch.bfloat16)
    write(root / "mistral", MistralConfig(**SHAPE, **narrow, head_dim=12, rope_parameters=rope(1e4),
                                          sliding_window=None), 13, "new", stored=torch.bfloat16)
    write(root / "mistral_window", MistralConfig(**SHAPE, **narrow, rope_parameters=rope(1e4), sliding_window=4), 14,
          "old", stored=torch.bfloat16)


if __name__ == "__main__":
    main()
