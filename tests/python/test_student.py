"""Students in the reference's own program, the package xlstm: written here and read there, and back."""
import copy
import dataclasses
import json
import subprocess
import unittest

import dacite
import numpy as np
import torch
from omegaconf import OmegaConf
from safetensors.numpy import save_file
from xlstm import (FeedForwardConfig, mLSTMBlockConfig, mLSTMLayerConfig, sLSTMBlockConfig, sLSTMLayerConfig,
                   xLSTMLMModel, xLSTMLMModelConfig)
from xlstm.blocks.slstm.cell import sLSTMCell_cuda

from common import (DISTIL, TEACHER, apart, as_stored, distil, folder, logits, make_teacher, make_tokens, numbers,
                    read, refused, write)

DOUBLE, SINGLE = 1e-10, 1e-5
torch.set_num_threads(1)


def config_in(student):
    """What a student's config.json says, as the reference's README reads configurations."""
    written = json.loads((student / "config.json").read_text())["xlstm_cfg"]
    return dacite.from_dict(xLSTMLMModelConfig, OmegaConf.to_container(OmegaConf.create(written)),
                            config=dacite.Config(strict=True))


def load(student, config):
    """A student's folder in float64."""
    config = copy.deepcopy(config)
    model = xLSTMLMModel(config)
    weights = numbers(student / "model.safetensors")
    model = model.double().eval()
    lacks = model.load_state_dict({name: torch.from_numpy(x.astype(np.float64)) for name, x in weights.items()},
                                  strict=not config.tie_weights)
    if config.tie_weights:  # the head is the embedding, and stored once
        assert lacks.missing_keys == ["lm_head.weight"] and not lacks.unexpected_keys, lacks
    return model


@torch.no_grad()
def outputs(model, ids):
    """Under the names that `distil logits` gives them."""
    found, hooks = {}, []

    def keep(name):
        return lambda module, given, out: found.__setitem__(name, out.numpy())

    stack = model.xlstm_block_stack
    for name, module in [("hidden.0", model.token_embedding), ("last_hidden", stack)] + [
            (f"hidden.{i}", block) for i, block in enumerate(stack.blocks, 1)]:
        hooks.append(module.register_forward_hook(keep(name)))
    found["logits"] = model(torch.from_numpy(ids.astype(np.int64))).numpy()
    for hook in hooks:
        hook.remove()
    return {name: x.astype(np.float64) for name, x in found.items()}


def config_of(*, vocabulary=40, width=16, blocks=2, slstm_at=(0,), mlstm_heads=4, slstm_heads=4, mlstm_conv=4,
              slstm_conv=4, qkv=4, factor=2.0, multiple=64, act="gelu", ffn=1.3, bias=False, tied=False, norm=True,
              context=24):
    mlstm = mLSTMBlockConfig(mlstm=mLSTMLayerConfig(
        conv1d_kernel_size=mlstm_conv, qkv_proj_blocksize=qkv, num_heads=mlstm_heads, proj_factor=factor,
        round_proj_up_to_multiple_of=multiple))
    feed_forward = FeedForwardConfig(proj_factor=ffn, act_fn=act, bias=bias, round_proj_up_to_multiple_of=multiple)
    slstm = sLSTMBlockConfig(
        slstm=sLSTMLayerConfig(backend="vanilla", num_heads=slstm_heads, conv1d_kernel_size=slstm_conv, dtype="float32",
                               bias_init="powerlaw_blockdependent", enable_automatic_mixed_precision=False),
        feedforward=feed_forward if ffn else None)
    return xLSTMLMModelConfig(
        mlstm_block=mlstm if len(slstm_at) < blocks else None, slstm_block=slstm if slstm_at else None,
        context_length=context, num_blocks=blocks, embedding_dim=width, add_post_blocks_norm=norm, bias=bias,
        slstm_at=list(slstm_at), vocab_size=vocabulary, tie_weights=tied)


def some_config(random):
    """A shape by chance, among those that are supported."""
    pick = lambda *choices: choices[random.integers(len(choices))]
    blocks = int(random.integers(1, 5))
    heads = pick(1, 2, 4)
    return config_of(
        vocabulary=int(random.integers(5, 60)), width=8 * int(random.integers(1, 7)), blocks=blocks,
        slstm_at=[b for b in range(blocks) if random.random() < 0.5], mlstm_heads=heads, slstm_heads=pick(1, 2, 4, 8),
        mlstm_conv=pick(2, 3, 4, 5), slstm_conv=pick(0, 2, 4), qkv=pick(2, 4, 8), factor=pick(1.0, 1.5, 2.0, 2.7),
        multiple=pick(16, 64), act=pick("gelu", "relu", "swish", "selu", "sigmoid", "relu^2"),
        ffn=pick(0, 1.3, 1.7, 2.0), bias=pick(False, True), tied=pick(False, True), norm=pick(True, True, False))


def random_student(config, random, stored="F32"):
    """A folder of random weights, made by Python."""
    place, written = folder() / "student", dataclasses.asdict(copy.deepcopy(config))
    model = xLSTMLMModel(config)
    weights = {}
    for name, p in model.named_parameters():
        mean, scale = 0.0, p.shape[-1] ** -0.5
        if name.endswith("learnable_skip"):
            mean = 1.0
        elif "norm" in name:
            scale = 0.25
        elif name.endswith("fgate.bias"):
            mean = 3.0
        elif "embedding" in name or name.endswith("_bias_"):
            scale = 1.0
        weights[name] = mean + scale * random.standard_normal(tuple(p.shape))
    place.mkdir()
    (place / "config.json").write_text(json.dumps({"architectures": ["DistilxLSTM"], "model_type": "distil_xlstm",
                                                   "torch_dtype": "float32", "xlstm_cfg": written}))
    write(place / "model.safetensors", {name: as_stored(w, stored) for name, w in weights.items()}, stored)
    return place


class Student(unittest.TestCase):
    def agree(self, student, ids, reference):
        """`distil logits` and Python in float64, on every hidden state; and, for a measure, Python in float32."""
        want, single = outputs(reference, ids), outputs(copy.deepcopy(reference).float(), ids)
        for precision, limit in (("fp64", DOUBLE), ("fp32", SINGLE)):
            got = logits(student, ids, precision)
            self.assertEqual(set(got), set(want))
            for name in want:
                off, python = apart(got[name], want[name]), apart(single[name], want[name])
                worst[precision], worst["python fp32"] = max(worst[precision], off), max(worst["python fp32"], python)
                self.assertLessEqual(off, limit, f"{precision} {name}")


worst = {"fp64": 0.0, "fp32": 0.0, "python fp32": 0.0}


def tearDownModule():
    print("\nstudents: farthest from the package xlstm (of the largest number): "
          + ", ".join(f"{p} {off:.1e}" for p, off in worst.items()))


class Trained(Student):
    """What `distil train` leaves opens in Python as it is."""

    def test_what_the_program_trains(self):
        for tied, options in ((True, ["--blocks", 3]), (False, ["--slstm-at", "all", "--blocks", 2]),
                              (True, ["--slstm-at", "none", "--blocks", 2]), (True, ["--architecture", "paper"]),
                              (False, ["--architecture", "heuristic"])):
            with self.subTest(tied=tied, options=options):
                teacher = make_teacher(tied)
                tokens, _ = make_tokens(teacher)
                out = folder() / "run"
                distil("train", "--teacher", teacher, "--tokens", tokens, "--out", out, "--batch", 4, "--length", 24,
                       "--steps", 8, "--lr", 0.02, "--threads", 1, *options)
                student = out / "student"
                config = json.loads((student / "config.json").read_text())
                self.assertEqual(config["architectures"], ["DistilxLSTM"])
                self.assertEqual(config["model_type"], "distil_xlstm")
                types = {dtype for dtype, _ in read(student / "model.safetensors").values()}
                self.assertEqual(types, {"F32"})
                self.agree(student, np.random.default_rng(3).integers(0, TEACHER["vocab_size"], (2, 24)),
                           load(student, config_in(student)))


class Made(Student):
    """What Python makes loads in the program."""

    def test_shapes_by_chance(self):
        random = np.random.default_rng(11)
        for case in range(14):
            config = some_config(random)
            with self.subTest(case=case, config=config):
                stored = ("F32", "F32", "BF16", "F16", "F64")[case % 5]
                student = random_student(config, random, stored)
                length = int(random.integers(1, config.context_length + 1))
                self.agree(student, random.integers(0, config.vocab_size, (int(random.integers(1, 4)), length)),
                           load(student, config))

    def test_what_python_initialises(self):
        config = config_of(blocks=3, slstm_at=(0, 2))
        student, model = random_student(config, np.random.default_rng(0)), xLSTMLMModel(config)
        torch.manual_seed(4)
        model.reset_parameters()
        write(student / "model.safetensors", {k: p.detach().numpy() for k, p in model.named_parameters()})
        self.agree(student, np.random.default_rng(1).integers(0, 40, (2, 24)), model.double().eval())


class SavedAgain(Student):
    """What the library loads and saves, in every type that it writes."""

    def test_every_type(self):
        random = np.random.default_rng(21)
        for case in range(4):
            config = some_config(random)
            student = random_student(config, random)
            before = numbers(student / "model.safetensors")
            for stored in ("F32", "BF16", "F64"):
                with self.subTest(config=config, stored=stored):
                    again = folder() / "again"
                    subprocess.run([DISTIL.parent / "interop.resave", student, again, stored], check=True)
                    after = read(again / "model.safetensors")
                    self.assertEqual(after.keys(), before.keys())
                    for name, (dtype, x) in after.items():
                        self.assertEqual(dtype, stored)
                        self.assertTrue((x == as_stored(before[name], stored)).all(), name)
                    self.agree(again, random.integers(0, config.vocab_size, (2, config.context_length)),
                               load(again, config_in(again)))


class Backends(Student):
    """The reference's two sLSTM backends store R and the bias in different orders."""

    def test_cuda_and_vanilla(self):
        for width, heads in ((16, 4), (16, 1), (24, 2), (8, 8)):
            with self.subTest(width=width, heads=heads):
                config = config_of(width=width, slstm_heads=heads, blocks=3, slstm_at=(0, 1))
                student = random_student(config, np.random.default_rng(width + heads))
                model, ids = load(student, config), np.random.default_rng(5).integers(0, 40, (2, 20))
                weights = numbers(student / "model.safetensors")
                turned = dict(weights)
                for block in (0, 1):
                    cell = model.xlstm_block_stack.blocks[block].xlstm.slstm_cell
                    cuda = sLSTMCell_cuda(copy.deepcopy(cell.config), skip_backend_init=True)
                    at = f"xlstm_block_stack.blocks.{block}.xlstm.slstm_cell."
                    r, b = (torch.from_numpy(weights[at + name]) for name in ("_recurrent_kernel_", "_bias_"))
                    turned_r = cuda._recurrent_kernel_ext2int(cell._recurrent_kernel_int2ext(r)).contiguous()
                    turned_b = cuda._bias_ext2int(cell._bias_int2ext(b)).contiguous()
                    self.assertNotEqual(turned_r.shape, r.shape)
                    self.assertEqual(bool((turned_b == b).all()), heads == 1)
                    turned |= {at + "_recurrent_kernel_": turned_r.numpy(), at + "_bias_": turned_b.numpy()}
                self.agree(student, ids, model)
                write(student / "model.safetensors", turned)
                config = json.loads((student / "config.json").read_text())
                config["xlstm_cfg"]["slstm_block"]["slstm"]["backend"] = "cuda"
                (student / "config.json").write_text(json.dumps(config))
                self.agree(student, ids, model)

    def test_the_names_of_other_commits(self):
        student = random_student(config_of(), np.random.default_rng(2))
        model, ids = load(student, config_of()), np.random.default_rng(6).integers(0, 40, (1, 12))
        renamed = {}
        for name, x in numbers(student / "model.safetensors").items():
            name = name.replace("token_embedding.weight", "xlstm.embedding.weight")
            renamed[name.replace("xlstm_block_stack.", "xlstm.backbone.")] = x
        write(student / "model.safetensors", renamed)
        self.agree(student, ids, model)


class Refused(unittest.TestCase):
    def test_tensors_that_do_not_fit_are_named(self):
        student = random_student(config_of(), np.random.default_rng(8))
        whole = numbers(student / "model.safetensors")
        gone, bent = "xlstm_block_stack.blocks.1.xlstm.q_proj.weight", "xlstm_block_stack.blocks.0.ffn_norm.weight"
        kernel = "xlstm_block_stack.blocks.0.xlstm.slstm_cell._recurrent_kernel_"
        extra = "xlstm_block_stack.more.weight"
        cases = {
            "missing": ({gone}, {}),
            "unused": (set(), {extra: np.ones(3, np.float32)}),
            "of another shape": (set(), {bent: np.ones(17, np.float32)}),
            "a kernel of neither backend": (set(), {kernel: whole[kernel].reshape(4, 8, 8)}),
            "all at once": ({gone}, {extra: np.ones(3, np.float32), bent: np.ones(17, np.float32)}),
        }
        for case, (without, changed) in cases.items():
            with self.subTest(case):
                write(student / "model.safetensors", {k: x for k, x in (whole | changed).items() if k not in without})
                ids = student / "ids.safetensors"
                save_file({"ids": np.zeros((1, 2), np.int32)}, ids)
                line = refused("logits", "--model", student, "--ids", ids, "--out", student / "out.safetensors")
                for name in without | set(changed):
                    self.assertIn(name, line)
                self.assertFalse((student / "out.safetensors").exists())


if __name__ == "__main__":
    unittest.main()
