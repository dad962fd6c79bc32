#!/usr/bin/env python3
"""Writes cells/cells.safetensors: the mLSTM and sLSTM cells in float64, forward and gradients. Run by hand:

    python3 -m venv venv && venv/bin/pip install -r requirements.txt
    venv/bin/python make_cells.py

Made with Python 3.11, torch 2.15.0 (CPU); the cells are written here from their formulas, gradients are autograd's.

mlstm.CASE.*  (q, k [B,H,S,DQ], v [B,H,S,DV], i, f [B,H,S]; C is [B,H,DQ,DV] = k v^T, k unscaled, q scaled by DQ^-1/2)
    q k v i f C0 n0 m0            inputs; an empty state has C0 = n0 = 0 and m0 = -inf
    h_chunk h_parallel N M        outputs (h_parallel only from an empty state), normaliser without epsilon, stabiliser
    C_last n_last m_last          state after the last token
    dH dC_last dn_last            cotangents
    autograd.d{q,k,v,i,f,C0,n0}   gradients of sum(dH h) + sum(dC_last C_last) + sum(dn_last n_last), where the last
                                  state is taken with its stabiliser m_last held constant
slstm.CASE.*  gates in the order i, f, z, o; states in the order h, c, n, m; H = NH * DH channels
    Wx_BSGNH R_vanilla R_cuda b_GNH b_NGH state0_hcnm      inputs
    h_BNSH state_last_hcnm dh_BNSH                         outputs, cotangent
    dWx dR_vanilla db_GNH dstate0                          gradients; those to the stabiliser m are left out (0)
"""
import math
import pathlib

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

EPSILON = 1e-6


def randn(g, *shape, scale=1.0, mean=0.0):
    return mean + scale * torch.randn(*shape, generator=g, dtype=torch.float64)


def gates(g, *shape, limit):
    """Raw gates over the whole range [-limit, limit], its ends among them."""
    x = (2 * torch.rand(*shape, generator=g, dtype=torch.float64) - 1) * limit
    ends = torch.rand(*shape, generator=g, dtype=torch.float64)
    return torch.where(ends < 0.15, torch.full_like(x, -limit), torch.where(ends > 0.85, torch.full_like(x, limit), x))


# ------------------------------------------------------------------------------------------------ mLSTM


def mlstm_recurrent(q, k, v, i, f, C, n, m):
    """The definition, token by token. Returns h, N, M and the last state."""
    scale = q.shape[-1] ** -0.5
    hs, ns, ms = [], [], []
    for t in range(q.shape[2]):
        if bool(torch.isinf(m).all()):  # nothing before this token
            new_m, forget = i[..., t], torch.zeros_like(m)
        else:
            log_f = F.logsigmoid(f[..., t]) + m
            new_m = torch.maximum(log_f, i[..., t])
            forget = torch.exp(log_f - new_m)
        write = torch.exp(i[..., t] - new_m)
        m = new_m
        C = forget[..., None, None] * C + write[..., None, None] * k[:, :, t, :, None] * v[:, :, t, None, :]
        n = forget[..., None] * n + write[..., None] * k[:, :, t]
        r = scale * (q[:, :, t] * n).sum(-1)
        N = torch.maximum(r.abs(), torch.exp(-m))
        hs.append(scale * torch.einsum("bhk,bhkv->bhv", q[:, :, t], C) / (N + EPSILON)[..., None])
        ns.append(N)
        ms.append(m)
    return torch.stack(hs, 2), torch.stack(ns, 2), torch.stack(ms, 2), (C, n, m)


def mlstm_parallel(q, k, v, i, f):
    """All tokens at once, from the empty state."""
    S = q.shape[2]
    total = torch.cumsum(F.logsigmoid(f), -1)
    log_d = total[..., :, None] - total[..., None, :] + i[..., None, :]
    log_d = log_d.masked_fill(torch.ones(S, S, dtype=torch.bool).triu(1), -math.inf)
    M = log_d.amax(-1)
    scores = torch.einsum("bhtk,bhsk->bhts", q, k) * q.shape[-1] ** -0.5 * torch.exp(log_d - M[..., None])
    N = torch.maximum(scores.sum(-1).abs(), torch.exp(-M))
    return scores @ v / (N + EPSILON)[..., None]


def mlstm_chunkwise(q, k, v, i, f, C, n, m, length):
    """Chunks of `length` tokens, the last one shorter."""
    scale, hs = q.shape[-1] ** -0.5, []
    for t in range(0, q.shape[2], length):
        qc, kc, vc, ic, fc = (x[:, :, t:t + length] for x in (q, k, v, i, f))
        L = qc.shape[2]
        b = torch.cumsum(F.logsigmoid(fc), -1)
        d = (b[..., :, None] - b[..., None, :] + ic[..., None, :]).masked_fill(
            torch.ones(L, L, dtype=torch.bool).triu(1), -math.inf)
        mu = torch.maximum(b + m[..., None], d.amax(-1))
        beta = torch.exp(b + m[..., None] - mu)
        scores = scale * torch.einsum("bhtk,bhsk->bhts", qc, kc) * torch.exp(d - mu[..., None])
        u = scale * beta[..., None] * (qc @ C) + scores @ vc
        r = scale * beta * (qc * n[..., None, :]).sum(-1) + scores.sum(-1)
        hs.append(u / (torch.maximum(r.abs(), torch.exp(-mu)) + EPSILON)[..., None])
        a = b[..., -1:] - b + ic
        new_m = torch.maximum(b[..., -1] + m, a.amax(-1))
        keep, write = torch.exp(b[..., -1] + m - new_m), torch.exp(a - new_m[..., None])
        C = keep[..., None, None] * C + (write[..., None] * kc).transpose(-1, -2) @ vc
        n = keep[..., None] * n + (write[..., None] * kc).sum(2)
        m = new_m
    return torch.cat(hs, 2), (C, n, m)


def mlstm_case(seed, B=1, H=2, S=19, DQ=4, DV=6, i_mean=0.0, i_scale=1.0, f_mean=0.0, f_scale=1.0, limit=None,
               state=False, chunk=4):
    g = torch.Generator().manual_seed(seed)
    q, k, v = randn(g, B, H, S, DQ), randn(g, B, H, S, DQ), randn(g, B, H, S, DV)
    if limit:
        i, f = gates(g, B, H, S, limit=limit), gates(g, B, H, S, limit=limit)
    else:
        i, f = randn(g, B, H, S, scale=i_scale, mean=i_mean), randn(g, B, H, S, scale=f_scale, mean=f_mean)
    C0, n0 = torch.zeros(B, H, DQ, DV).double(), torch.zeros(B, H, DQ).double()
    m0 = torch.full((B, H), -math.inf).double()
    if state:
        C0, n0, m0 = randn(g, B, H, DQ, DV), randn(g, B, H, DQ), randn(g, B, H, scale=2.0)
    dH, dC, dn = randn(g, B, H, S, DV), randn(g, B, H, DQ, DV), randn(g, B, H, DQ)
    inputs = dict(q=q, k=k, v=v, i=i, f=f, C0=C0, n0=n0)
    for x in inputs.values():
        x.requires_grad_()
    h, N, M, (C, n, m) = mlstm_recurrent(q, k, v, i, f, C0, n0, m0)
    # What the next segment sees is C e^m, n e^m: with m held constant the gradient of the true, unstabilised state.
    with torch.no_grad():
        m_last = m.clone()
    undo = torch.exp(m - m_last)
    value = (dH * h).sum() + (dC * C * undo[..., None, None]).sum() + (dn * n * undo[..., None]).sum()
    grads = torch.autograd.grad(value, list(inputs.values()), allow_unused=True)
    out = {name: x.detach() for name, x in inputs.items()} | dict(m0=m0, N=N, M=M, C_last=C, n_last=n, m_last=m, dH=dH,
                                                                  dC_last=dC, dn_last=dn)
    for name, x, gradient in zip(inputs, inputs.values(), grads):
        out["autograd.d" + name] = torch.zeros_like(x) if gradient is None else gradient
    with torch.no_grad():
        out["h_chunk"], chunk_state = mlstm_chunkwise(q, k, v, i, f, C0, n0, m0, chunk)
        limit_error = 1e-12
        size = h.abs().max()
        assert (out["h_chunk"] - h).abs().max() <= limit_error * size
        assert max((a - b).abs().max() / b.abs().max() for a, b in zip(chunk_state, (C, n, m))) <= limit_error
        if not state:
            parallel = mlstm_parallel(q, k, v, i, f)
            assert (parallel - h).abs().max() <= limit_error * size
            out["h_parallel"] = parallel
    if not state:
        # the parallel form's gradient is the recurrent one's
        leaves = [q, k, v, i, f]
        whole = torch.autograd.grad((dH * mlstm_parallel(*leaves)).sum(), leaves)
        step = torch.autograd.grad((dH * mlstm_recurrent(*leaves, C0, n0, m0)[0]).sum(), leaves)
        for a, b in zip(whole, step):
            assert (a - b).abs().max() <= 1e-9 * b.abs().max()
    return out


# ------------------------------------------------------------------------------------------------ sLSTM


def slstm(Wx, R, b, state, NH, DH):
    """Wx [B,S,4H] (gate, head, channel), R [NH, 4 DH, DH], b [4H], state [4,B,H]."""
    B, S = Wx.shape[:2]
    H = NH * DH
    h, c, n, m = state.unbind(0)
    out = []
    for t in range(S):
        recurrent = torch.einsum("agok,bak->bgao", R.view(NH, 4, DH, DH), h.view(B, NH, DH)).reshape(B, 4 * H)
        i, f, z, o = (Wx[:, t] + recurrent + b).view(B, 4, H).unbind(1)
        log_f = m + F.logsigmoid(f)
        m = torch.where(n == 0, i, torch.maximum(i, log_f))
        write, forget = torch.exp(i - m), torch.exp(torch.clamp(log_f - m, max=0.0))
        c = forget * c + write * torch.tanh(z)
        n = forget * n + write
        h = torch.sigmoid(o) * c / n
        out.append(h)
    return torch.stack(out, 1).view(B, S, NH, DH).transpose(1, 2), torch.stack((h, c, n, m))


def slstm_case(seed, B=2, S=9, NH=2, DH=3, scale=1.0, limit=None, state=False):
    g = torch.Generator().manual_seed(seed)
    H = NH * DH
    Wx = gates(g, B, S, 4 * H, limit=limit) if limit else randn(g, B, S, 4 * H, scale=scale)
    R = randn(g, NH, 4 * DH, DH, scale=0.5)
    b = randn(g, 4 * H)
    if limit:  # |raw| stays within the limit
        R, b, Wx = 0.02 * R, 0.0 * b, Wx * (1 - 0.02)
    state0 = torch.zeros(4, B, H, dtype=torch.float64)
    if state:
        state0 = torch.stack((randn(g, B, H, scale=0.5), randn(g, B, H), 1 + randn(g, B, H).abs(), randn(g, B, H)))
    dh = randn(g, B, NH, S, DH)
    leaves = dict(Wx_BSGNH=Wx, R_vanilla=R, b_GNH=b, state0_hcnm=state0)
    for x in leaves.values():
        x.requires_grad_()
    h, last = slstm(Wx, R, b, state0, NH, DH)
    dWx, dR, db, dstate = torch.autograd.grad((dh * h).sum(), list(leaves.values()))
    dstate = dstate.clone()
    dstate[3] = 0
    out = {name: x.detach() for name, x in leaves.items()}
    out["R_cuda"] = R.detach().transpose(1, 2)
    out["b_NGH"] = b.detach().view(4, NH, DH).transpose(0, 1).reshape(-1)
    return out | dict(h_BNSH=h, state_last_hcnm=last, dh_BNSH=dh, dWx=dWx, dR_vanilla=dR, db_GNH=db, dstate0=dstate)


def main():
    cases = {
        "mlstm.small": mlstm_case(1),
        "mlstm.neg": mlstm_case(2, i_mean=-10.0),
        "mlstm.big": mlstm_case(3, i_mean=12.0, i_scale=4.0),
        "mlstm.state": mlstm_case(4, state=True),
        "mlstm.extreme": mlstm_case(5, limit=64.0),
        "mlstm.extreme_state": mlstm_case(6, limit=64.0, state=True),
        "mlstm.long": mlstm_case(7, H=1, S=70, DQ=8, DV=8, f_mean=3.0, chunk=64),
        "slstm.small": slstm_case(11),
        "slstm.state": slstm_case(12, state=True),
        "slstm.extreme": slstm_case(13, limit=64.0),
        "slstm.extreme_state": slstm_case(14, limit=64.0, state=True),
    }
    tensors = {f"{case}.{name}": x.detach().contiguous() for case, t in cases.items() for name, x in t.items()}
    for name, x in tensors.items():
        assert x.dtype == torch.float64 and (name.endswith("m0") or bool(torch.isfinite(x).all())), name
    folder = pathlib.Path(__file__).resolve().parent / "cells"
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "cells.safetensors", metadata={"made_by": f"make_cells.py, torch {torch.__version__}"})


if __name__ == "__main__":
    main()
