#!/usr/bin/env python3
"""Writes steps/: eight steps of distillation in float64, to be repeated number by number. Run by hand:

    python3 -m venv venv && venv/bin/pip install -r requirements.txt
    venv/bin/pip install --no-deps xlstm==2.0.6 mlstm_kernels==2.0.6
    venv/bin/python make_steps.py

Made with Python 3.11, torch 2.15.0 (CPU), transformers 5.23.0 (teacher), xlstm 2.0.6 (student, backend vanilla).
    teacher/               a tiny tied llama (Hugging Face folder, no tokenizer)
    student/               the initial student: two blocks, sLSTM at 0, tied to the teacher's frozen embedding
    tokens.safetensors     a token file of one document: step s, row b trains on window 2 s + b of 12 tokens
    steps.json             the options, and ce, kl, alignment, total, grad_norm of each step
    expected.safetensors   ids, targets I32 [8,2,12]; F64: teacher.last_hidden, teacher.average [8,2,12,16],
                           initial.NAME, first_gradient.NAME (before clipping), final.NAME
Objective: alpha T^2 KL(teacher || student at T) + (1 - alpha - beta) CE + beta * alignment, means over tokens;
alignment is the root mean square of the student's normed output minus the mean of the teacher's layer outputs 1..L,
the last one normed.
AdamW decays what has "weight" and not "norm" in its name.
"""
import dataclasses
import json
import pathlib
import shutil

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig
from xlstm import (FeedForwardConfig, mLSTMBlockConfig, mLSTMLayerConfig, sLSTMBlockConfig, sLSTMLayerConfig,
                   xLSTMLMModel, xLSTMLMModelConfig)

VOCABULARY, WIDTH, BATCH, LENGTH, STEPS = 32, 16, 2, 12, 8
OPTIONS = dict(alpha=0.6, beta=0.1, temperature=2.0, lr=1e-2, beta1=0.9, beta2=0.95, epsilon=1e-8, weight_decay=0.1,
               clip=0.25, batch=BATCH, length=LENGTH, steps=STEPS, alignment="average", order="sequential")


def numbers(random, shape, scale, mean=0.0):
    return torch.from_numpy((mean + scale * random.standard_normal(tuple(shape))).astype(np.float32))


def make_teacher(random, folder):
    config = LlamaConfig(vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=24, num_hidden_layers=3,
                         num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=64, rms_norm_eps=1e-5,
                         rope_parameters={"rope_type": "default", "rope_theta": 1e4}, tie_word_embeddings=True,
                         bos_token_id=1, eos_token_id=2, attn_implementation="sdpa")
    model = AutoModelForCausalLM.from_config(config)
    weights = {}
    for name, p in model.named_parameters():
        mean, scale = (1.0, 0.2) if "norm" in name else (0.0, 1.0 if "embed" in name else 0.3)
        weights[name] = numbers(random, p.shape, scale, mean)
    model = model.double().eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(weights[name].double())
    folder.mkdir(parents=True)
    written = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": VOCABULARY,
               "hidden_size": WIDTH, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2,
               "num_key_value_heads": 1, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 1e4, "tie_word_embeddings": True,
               "hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "bos_token_id": 1, "eos_token_id": 2,
               "torch_dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(written, indent=1) + "\n")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    # transformers keeps the rotary table and the norms in float32 even in a float64 model
    inverse = 1e4 ** (-torch.arange(0, 8, 2, dtype=torch.float64) / 8)

    def rotary(x, position_ids):
        angles = position_ids[..., None].double() * inverse
        angles = torch.cat((angles, angles), -1)
        return angles.cos(), angles.sin()

    model.model.rotary_emb.forward = rotary

    def rms_norm(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))

    for module in model.modules():
        if type(module).__name__ == "LlamaRMSNorm":
            module.forward = rms_norm.__get__(module)
    return model


@torch.no_grad()
def teach(model, ids):
    """Last normed hidden state, and the mean over the layers' outputs (the last one normed)."""
    outputs = []
    hooks = [layer.register_forward_hook(lambda m, args, out: outputs.append(out[0] if isinstance(out, tuple) else out))
             for layer in model.model.layers]
    last = model.model(ids, use_cache=False).last_hidden_state
    for hook in hooks:
        hook.remove()
    assert outputs[0].shape == last.shape and len(outputs) == 3
    return last, torch.stack(outputs[:-1] + [last]).mean(0)


def make_student(random, embedding, folder):
    config = xLSTMLMModelConfig(
        mlstm_block=mLSTMBlockConfig(mlstm=mLSTMLayerConfig(num_heads=4, round_proj_up_to_multiple_of=16)),
        slstm_block=sLSTMBlockConfig(
            slstm=sLSTMLayerConfig(backend="vanilla", num_heads=4, bias_init="powerlaw_blockdependent", dtype="float32",
                                   enable_automatic_mixed_precision=False),
            feedforward=FeedForwardConfig(proj_factor=1.3, act_fn="gelu", round_proj_up_to_multiple_of=16)),
        context_length=LENGTH, num_blocks=2, embedding_dim=WIDTH, slstm_at=[0], vocab_size=VOCABULARY, tie_weights=True)
    model = xLSTMLMModel(config)
    model.reset_parameters()
    weights = {}
    for name, p in model.named_parameters():
        kind = {"norm": (0.0, 0.1), "learnable_skip": (1.0, 0.1), "fgate.bias": (3.0, 0.5), "_bias_": (0.0, 0.5)}
        mean, scale = next((v for key, v in kind.items() if key in name), (0.0, 0.25))
        weights[name] = numbers(random, p.shape, scale, mean)
    weights["token_embedding.weight"] = embedding.clone()
    model = model.double()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(weights[name].double())
    model.token_embedding.weight.requires_grad_(False)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(
        {"architectures": ["DistilxLSTM"], "model_type": "distil_xlstm", "torch_dtype": "float32",
         "xlstm_cfg": dataclasses.asdict(config)}, indent=1) + "\n")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return model


def main():
    torch.set_num_threads(1)
    random = np.random.default_rng(20)
    root = pathlib.Path(__file__).resolve().parent / "steps"
    shutil.rmtree(root, ignore_errors=True)
    teacher = make_teacher(random, root / "teacher")
    embedding = teacher.model.embed_tokens.weight.detach()
    student = make_student(random, embedding.float(), root / "student")
    tokens = random.integers(0, VOCABULARY, STEPS * BATCH * LENGTH + 1).astype(np.int32)
    save_file({"ids": torch.from_numpy(tokens), "documents": torch.zeros(1, dtype=torch.int64)},
              root / "tokens.safetensors", metadata={"vocab_size": str(VOCABULARY)})
    ids = torch.from_numpy(tokens[:-1].reshape(STEPS, BATCH, LENGTH).copy())
    targets = torch.from_numpy(tokens[1:].reshape(STEPS, BATCH, LENGTH).copy())

    trained = {name: p for name, p in student.named_parameters() if p.requires_grad}
    assert "token_embedding.weight" not in trained
    decay = [p for name, p in trained.items() if "weight" in name and "norm" not in name]
    rest = [p for name, p in trained.items() if not ("weight" in name and "norm" not in name)]
    reference_decay, _ = student.get_weight_decay_optim_groups()
    assert {id(p) for p in decay} == {id(p) for p in reference_decay if p.requires_grad}
    o = OPTIONS
    groups = [{"params": decay, "weight_decay": o["weight_decay"]}, {"params": rest, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=o["lr"], betas=(o["beta1"], o["beta2"]), eps=o["epsilon"], foreach=False)
    expected = {"ids": ids, "targets": targets} | {f"initial.{name}": p.detach().clone() for name, p in trained.items()}
    T, log = o["temperature"], []
    signals = []
    for s in range(STEPS):
        last, target = teach(teacher, ids[s].long())
        signals.append((last, target))
        hidden = student.xlstm_block_stack(student.token_embedding(ids[s].long()))
        z_student, z_teacher = hidden @ embedding.T, last @ embedding.T
        ce = F.cross_entropy(z_student.reshape(-1, VOCABULARY), targets[s].long().reshape(-1))
        p_teacher = F.log_softmax(z_teacher / T, -1)
        kl = (p_teacher.exp() * (p_teacher - F.log_softmax(z_student / T, -1))).sum(-1).mean()
        alignment = (hidden - target).pow(2).mean().sqrt()
        total = o["alpha"] * T * T * kl + (1 - o["alpha"] - o["beta"]) * ce + o["beta"] * alignment
        optimiser.zero_grad(set_to_none=True)
        total.backward()
        if s == 0:
            expected |= {f"first_gradient.{name}": p.grad.clone() for name, p in trained.items()}
        norm = torch.nn.utils.clip_grad_norm_(list(trained.values()), o["clip"])
        assert norm > o["clip"] and total.dtype == torch.float64
        optimiser.step()
        log.append({"step": s + 1, "ce": ce.item(), "kl": kl.item(), "alignment": alignment.item(),
                    "total": total.item(), "grad_norm": norm.item()})
        print(log[-1])
    expected["teacher.last_hidden"] = torch.stack([last for last, _ in signals])
    expected["teacher.average"] = torch.stack([target for _, target in signals])
    expected |= {f"final.{name}": p.detach() for name, p in trained.items()}
    save_file({name: x.contiguous() for name, x in expected.items()}, root / "expected.safetensors")
    decayed = sorted(name for name, p in trained.items() if any(p is q for q in decay))
    (root / "steps.json").write_text(
        json.dumps({"options": OPTIONS, "decayed": decayed, "steps": log}, indent=1) + "\n")
    for file in root.rglob("*"):
        if file.is_file():
            file.chmod(0o644)


if __name__ == "__main__":
    main()
