#!/usr/bin/env python3
"""Writes steps/: two runs of distillation in float64, to be repeated number by number. Run by hand:

    python3 -m venv venv && venv/bin/pip install -r requirements.txt
    venv/bin/pip install --no-deps xlstm==2.0.6 mlstm_kernels==2.0.6
    venv/bin/python make_steps.py

Made with Python 3.11, torch 2.15.0 (CPU), transformers 5.23.0 (teacher), xlstm 2.0.6 (student, backend vanilla).
    teacher/               a tiny tied llama (Hugging Face folder, no tokenizer)
    student/               the initial student: two blocks, sLSTM at 0, tied to the teacher's frozen embedding
    tokens.safetensors     a token file of one document: 16 windows of 12 tokens, read in their order
    steps.json             eight steps, constant weights: the options, and ce, kl, alignment, total, grad_norm of each
    expected.safetensors   of those, ids, targets I32 [8,2,12]; F64: teacher.last_hidden, teacher.average
                           [8,2,12,16], initial.NAME, first_gradient.NAME (before clipping), final.NAME
    code.json              ten steps as the authors' code takes them: besides, alpha, temperature and lr of each
Objective: alpha T^2 KL(teacher || student at T) + (1 - alpha - beta) CE + beta * alignment, means over tokens;
alignment is the root mean square of the student's normed output minus the mean of the teacher's layer outputs 1..L,
the last one normed.
AdamW decays what has "weight" and not "norm" in its name.
The authors' code (github.com/thiomajid/distil_xlstm, January 2025) renews alpha and T by callbacks after each step and
each epoch, has Hugging Face's warm-up and cosine, several batches a step, and was run in jobs of two epochs, which
begin alpha, T and the learning rate anew. Here the moments go on, a step is the mean of its batches, weights decay and
the learning rate is 1e-2, not 2e-4: ten steps show more then.
"""
import copy
import dataclasses
import json
import math
import pathlib
import shutil

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig, get_cosine_schedule_with_warmup
from xlstm import (FeedForwardConfig, mLSTMBlockConfig, mLSTMLayerConfig, sLSTMBlockConfig, sLSTMLayerConfig,
                   xLSTMLMModel, xLSTMLMModelConfig)

VOCABULARY, WIDTH, BATCH, LENGTH, STEPS = 32, 16, 2, 12, 8
OPTIONS = dict(alpha=0.6, beta=0.1, temperature=2.0, lr=1e-2, beta1=0.9, beta2=0.95, epsilon=1e-8, weight_decay=0.1,
               clip=0.25, batch=BATCH, length=LENGTH, steps=STEPS, alignment="average", order="sequential")
CODE = dict(alpha=[0.8, 0.5], beta=0.1, temperature=[2.0, 1.0], delta=0.05, lr=1e-2, warmup=1, beta1=0.9, beta2=0.999,
            epsilon=1e-8, weight_decay=0.1, clip=6.0, batch=BATCH, length=LENGTH, accumulate=2, steps=10,
            restart_epochs=2, alignment="average", order="sequential")


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


def is_decayed(name):
    return "weight" in name and "norm" not in name


def make_optimiser(student, o):
    trained = {name: p for name, p in student.named_parameters() if p.requires_grad}
    assert "token_embedding.weight" not in trained
    decay = [p for name, p in trained.items() if is_decayed(name)]
    rest = [p for name, p in trained.items() if not is_decayed(name)]
    reference_decay, _ = student.get_weight_decay_optim_groups()
    assert {id(p) for p in decay} == {id(p) for p in reference_decay if p.requires_grad}
    groups = [{"params": decay, "weight_decay": o["weight_decay"]}, {"params": rest, "weight_decay": 0.0}]
    return trained, torch.optim.AdamW(groups, lr=o["lr"], betas=(o["beta1"], o["beta2"]), eps=o["epsilon"],
                                      foreach=False)


def train(teacher, student, windows, o):
    """Eight steps of constant weights; the log, and what the teacher said."""
    ids, targets = windows
    embedding = teacher.model.embed_tokens.weight.detach()
    trained, optimiser = make_optimiser(student, o)
    T, log, signals, first_gradient = o["temperature"], [], [], {}
    for s in range(o["steps"]):
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
            first_gradient = {name: p.grad.clone() for name, p in trained.items()}
        norm = torch.nn.utils.clip_grad_norm_(list(trained.values()), o["clip"])
        assert norm > o["clip"] and total.dtype == torch.float64
        optimiser.step()
        log.append({"step": s + 1, "ce": ce.item(), "kl": kl.item(), "alignment": alignment.item(),
                    "total": total.item(), "grad_norm": norm.item()})
        print(log[-1])
    return log, signals, first_gradient


class annealed:
    """A value as the authors' callbacks renew it."""

    def __init__(self, bounds, delta):
        (self.base, self.final), self.delta, self.k = bounds, delta, 0
        self.value = self.base

    def on_step_end(self):
        self.value = self.final + (self.base - self.final) / (1 + math.log(1 + self.k))
        self.k += 1

    def on_epoch_end(self):
        self.base = max(self.base - self.delta * self.base, self.final)
        self.value, self.k = self.base, 0


def train_as_the_code(teacher, student, windows, o):
    """Ten steps of several batches; the log."""
    ids, targets = (x.reshape(-1, o["accumulate"], BATCH, LENGTH) for x in windows)
    embedding = teacher.model.embed_tokens.weight.detach()
    trained, optimiser = make_optimiser(student, o)
    epoch = len(ids)
    job = o["restart_epochs"] * epoch
    log = []
    for s in range(o["steps"]):
        if s % job == 0:
            for group in optimiser.param_groups:
                group["lr"] = group["initial_lr"] = o["lr"]
            rates = get_cosine_schedule_with_warmup(optimiser, o["warmup"], job)
            alpha, temperature = annealed(o["alpha"], o["delta"]), annealed(o["temperature"], o["delta"])
        a, T, beta, lr = alpha.value, temperature.value, o["beta"], rates.get_last_lr()[0]
        line = dict(step=s + 1, alpha=a, temperature=T, lr=lr, ce=0.0, kl=0.0, alignment=0.0, total=0.0)
        optimiser.zero_grad(set_to_none=True)
        for batch in range(o["accumulate"]):
            x, y = ids[s % epoch, batch].long(), targets[s % epoch, batch].long()
            last, target = teach(teacher, x)
            hidden = student.xlstm_block_stack(student.token_embedding(x))
            z_student, z_teacher = ((h @ embedding.T).reshape(-1, VOCABULARY) for h in (hidden, last))
            ce = F.cross_entropy(z_student, y.reshape(-1))
            kl = F.kl_div(F.log_softmax(z_student / T, -1), F.softmax(z_teacher / T, -1), reduction="batchmean")
            alignment = torch.linalg.vector_norm(target - hidden) / math.sqrt(hidden.numel())
            total = (1 - a - beta) * ce + a * T**2 * kl + beta * alignment
            (total / o["accumulate"]).backward()
            for key, value in dict(ce=ce, kl=kl, alignment=alignment, total=total).items():
                line[key] += value.item() / o["accumulate"]
        line["grad_norm"] = torch.nn.utils.clip_grad_norm_(list(trained.values()), o["clip"]).item()
        optimiser.step()
        rates.step(), alpha.on_step_end(), temperature.on_step_end()
        if (s + 1) % epoch == 0:
            alpha.on_epoch_end(), temperature.on_epoch_end()
        log.append(line)
        print(line)
    clipped = sum(line["grad_norm"] > o["clip"] for line in log)
    assert 0 < clipped < len(log), clipped
    return log


def write_log(file, options, trained, log):
    decayed = sorted(name for name in trained if is_decayed(name))
    file.write_text(json.dumps({"options": options, "decayed": decayed, "steps": log}, indent=1) + "\n")


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
    windows = [torch.from_numpy(x.reshape(STEPS, BATCH, LENGTH).copy()) for x in (tokens[:-1], tokens[1:])]

    other = copy.deepcopy(student)
    trained = {name: p for name, p in student.named_parameters() if p.requires_grad}
    expected = dict(zip(("ids", "targets"), windows))
    expected |= {f"initial.{name}": p.detach().clone() for name, p in trained.items()}
    log, signals, first_gradient = train(teacher, student, windows, OPTIONS)
    expected |= {f"first_gradient.{name}": g for name, g in first_gradient.items()}
    expected["teacher.last_hidden"] = torch.stack([last for last, _ in signals])
    expected["teacher.average"] = torch.stack([target for _, target in signals])
    expected |= {f"final.{name}": p.detach() for name, p in trained.items()}
    save_file({name: x.contiguous() for name, x in expected.items()}, root / "expected.safetensors")
    write_log(root / "steps.json", OPTIONS, trained, log)
    write_log(root / "code.json", CODE, trained, train_as_the_code(teacher, other, windows, CODE))
    for file in root.rglob("*"):
        if file.is_file():
            file.chmod(0o644)


if __name__ == "__main__":
    main()
