#!/usr/bin/env python3
"""The step that step.bench.cpp measures, as PyTorch users have it: transformers' teacher, the package xlstm's student.

    python3 -m venv venv && venv/bin/pip install torch==2.15.0 transformers accelerate gguf einops omegaconf dacite
    venv/bin/pip install --no-deps xlstm==2.0.6 mlstm_kernels==2.0.6
    venv/bin/python bench/distil/step_pytorch.py TEACHER.gguf [--batch 4] [--length 512] [--bf16]

xlstm's time loop of sLSTM writes into one large tensor, which autograd pays for dearly; --as-it-comes keeps it, else it
is replaced by one that collects its steps. The allocator is told to keep its pages, which is worth a third.
"""
import argparse
import os
import sys
import time

TUNED = {"MALLOC_MMAP_THRESHOLD_": str(2**33), "MALLOC_TRIM_THRESHOLD_": str(2**34), "MALLOC_TOP_PAD_": str(2**28)}
if any(os.environ.get(k) != v for k, v in TUNED.items()):
    slow = {"OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"}  # where they are set they choose older kernels
    environment = {k: v for k, v in os.environ.items() if k not in slow} | TUNED | {"HF_HUB_OFFLINE": "1"}
    os.execve(sys.executable, [sys.executable, *sys.argv], environment)

import torch
import torch.nn.functional as F
import xlstm
import xlstm.blocks.slstm.cell as slstm_cell
from transformers import AutoModelForCausalLM

parser = argparse.ArgumentParser()
parser.add_argument("teacher")
parser.add_argument("--batch", type=int, default=4)
parser.add_argument("--length", type=int, default=512)
parser.add_argument("--repeat", type=int, default=3)
parser.add_argument("--bf16", action="store_true", help="products under autocast")
parser.add_argument("--as-it-comes", action="store_true")
given = parser.parse_args()


def time_loop(x, state, recurrent, bias, pointwise, constants={}):
    """h, c, n, m after every step, of x [time, batch, 4 width]: the cell's own pointwise function in a plain loop."""
    heads, rows, head = recurrent.shape
    gates = rows // head
    turned = recurrent.transpose(1, 2)
    states, kept = [state], []
    for step in x:
        h = states[-1][0].reshape(step.shape[0], heads, 1, head)
        fed_back = (h @ turned).reshape(step.shape[0], heads, gates, head).transpose(1, 2).reshape(step.shape[0], -1)
        state, gate = pointwise(step, fed_back, bias, states[-1], constants=constants)
        states.append(state), kept.append(gate)
    return torch.stack(states, 1), states[-1], torch.stack(kept)


if not given.as_it_comes:
    slstm_cell.slstm_forward = time_loop

torch.manual_seed(0)
folder, name = os.path.split(os.path.abspath(given.teacher))
teacher = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32).eval().requires_grad_(False)
head = teacher.get_input_embeddings().weight
vocabulary, width = head.shape
student = xlstm.xLSTMBlockStack(xlstm.xLSTMBlockStackConfig(
    mlstm_block=xlstm.mLSTMBlockConfig(mlstm=xlstm.mLSTMLayerConfig(num_heads=4)),
    slstm_block=xlstm.sLSTMBlockConfig(
        slstm=xlstm.sLSTMLayerConfig(backend="vanilla", num_heads=4, dtype="float32",
                                     enable_automatic_mixed_precision=False),
        feedforward=xlstm.FeedForwardConfig(proj_factor=1.3, act_fn="gelu")),
    context_length=given.length, num_blocks=6, embedding_dim=width, slstm_at=[0, 2, 4]))
optimiser = torch.optim.AdamW(student.parameters(), lr=1e-4, weight_decay=0.1)
ids = torch.randint(vocabulary, (given.batch, given.length + 1))
inputs, targets = ids[:, :-1], ids[:, 1:].reshape(-1)
alpha, beta, T = 0.6, 0.1, 2.0


def precision():
    return torch.autocast("cpu", torch.bfloat16, enabled=given.bf16)


def lesson():
    with torch.no_grad(), precision():
        states = teacher.model(inputs, output_hidden_states=True).hidden_states[1:]
        target = sum(s.float() for s in states) / len(states)
        t = F.linear(states[-1], head).reshape(-1, vocabulary).float()
    with precision():
        h = student(head[inputs])
        s = F.linear(h, head).reshape(-1, vocabulary).float()
    kl = T * T * F.kl_div(F.log_softmax(s / T, -1), F.log_softmax(t / T, -1), reduction="batchmean", log_target=True)
    alignment = (h.float() - target).square().mean().sqrt()
    loss = alpha * kl + (1 - alpha - beta) * F.cross_entropy(s, targets) + beta * alignment
    optimiser.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
    optimiser.step()


lesson()
seconds = []
for _ in range(given.repeat):
    start = time.perf_counter()
    lesson()
    seconds.append(time.perf_counter() - start)
seconds.sort()
tokens = given.batch * given.length
print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {given.batch} x {given.length}: "
      f"best {tokens / seconds[0]:.1f}, median {tokens / seconds[len(seconds) // 2]:.1f} tokens/s")
