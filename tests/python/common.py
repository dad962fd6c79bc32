"""What the tests share: the program, folders, safetensors by their bytes, and small teachers."""
import atexit
import json
import os
import pathlib
import shutil
import subprocess
import tempfile

import numpy as np
import safetensors
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

ROOT = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"
DISTIL = pathlib.Path(os.environ.get("DISTIL", ROOT / "build/release/bin/distil"))


def run(*arguments, input=None):
    given = [str(a) for a in arguments]
    return subprocess.run([str(DISTIL), *given], input=input, capture_output=True, timeout=240)


def distil(*arguments, input=None):
    """Runs what must succeed; its stdout."""
    done = run(*arguments, input=input)
    if done.returncode != 0:
        raise AssertionError(f"distil {' '.join(map(str, arguments))}: {done.returncode}: {done.stderr.decode()}")
    return done.stdout


def refused(*arguments):
    """Runs what must fail as a job; its one line on stderr."""
    done = run(*arguments)
    line = done.stderr.decode()
    assert done.returncode == 1 and line.count("\n") == 1 and done.stdout == b"", (done.returncode, line)
    return line


def folder():
    """A folder that goes at the end; its name has a blank in it."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="distil interop "))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


# ---- safetensors ------------------------------------------------------------------------------------------------

NUMPY = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "I64": np.int64, "I32": np.int32, "U16": np.uint16}


def from_bf16(raw):
    return (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32)


def to_bf16(x):
    """The bits, rounded to nearest even."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> np.uint64(16)) & np.uint64(1))) >> np.uint64(16)).astype(np.uint16)


def read(path):
    """name: (dtype, numbers); BF16 widened to float32. The package parses and checks the file."""
    out = {}
    for name, t in safetensors.deserialize(pathlib.Path(path).read_bytes()):
        raw = bytes(t["data"])
        numbers = from_bf16(raw) if t["dtype"] == "BF16" else np.frombuffer(raw, NUMPY[t["dtype"]]).copy()
        out[name] = t["dtype"], numbers.reshape(t["shape"])
    return out


def numbers(path):
    return {name: x for name, (_, x) in read(path).items()}


def metadata(path):
    with safetensors.safe_open(path, framework="np") as file:
        return file.metadata() or {}


def write(path, tensors, stored="F32"):
    """Writes float tensors as F64, F32, F16 or BF16."""
    if stored != "BF16":
        save_file({k: np.ascontiguousarray(x, NUMPY[stored]) for k, x in tensors.items()}, path, {"format": "pt"})
        return
    header, data = {}, b""
    for name, x in tensors.items():
        raw = to_bf16(x).tobytes()
        header[name] = {"dtype": "BF16", "shape": list(x.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    head = json.dumps(header).encode()
    path.write_bytes(len(head).to_bytes(8, "little") + head + data)
    safetensors.deserialize(path.read_bytes())


def as_stored(x, stored):
    """What is left of numbers once they are stored."""
    return from_bf16(to_bf16(x).tobytes()).reshape(x.shape) if stored == "BF16" else x.astype(NUMPY[stored])


def apart(a, b):
    """max |a - b| / max |b|"""
    assert a.shape == b.shape, (a.shape, b.shape)
    assert np.isfinite(a).all() and np.isfinite(b).all()
    return float(np.abs(a.astype(np.float64) - b).max() / np.abs(b).max())


def logits(model, ids, precision="fp64"):
    """What `distil logits` writes."""
    place = folder()
    save_file({"ids": np.ascontiguousarray(ids, np.int32)}, place / "ids.safetensors")
    distil("logits", "--model", model, "--ids", place / "ids.safetensors", "--out", place / "out.safetensors",
           "--precision", precision, "--threads", 1)
    return numbers(place / "out.safetensors")


# ---- a teacher of random numbers --------------------------------------------------------------------------------

TEACHER = dict(vocab_size=384, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
               num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-5, rope_theta=1e4,
               tie_word_embeddings=True)
TEXT = """The student reads what the teacher has written, and the teacher's words are worth reading. In 1997 there
were 12 or 13 of them; we'll see whether it's enough. A long recurrence forgets, a gate decides what stays.
Der Lehrer schreibt, der Schüler liest. 学生读老师写的字。 Учитель пишет, ученик читает.
"""


def random_teacher(shape, seed):
    """Tensors of a llama by their Hugging Face names, float32."""
    c, random, out = shape, np.random.default_rng(seed), {}
    d, f, head = c["hidden_size"], c["intermediate_size"], c["hidden_size"] // c["num_attention_heads"]
    kv = head * c["num_key_value_heads"]

    def add(name, *size):
        mean, scale = (1.0, 0.2) if "norm" in name else (0.0, 1.0 if "embed" in name else size[-1] ** -0.5)
        out[name] = (mean + scale * random.standard_normal(size)).astype(np.float32)

    add("model.embed_tokens.weight", c["vocab_size"], d)
    for i in range(c["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        add(layer + "input_layernorm.weight", d)
        add(layer + "post_attention_layernorm.weight", d)
        for name, rows, cols in (("self_attn.q", d, d), ("self_attn.k", kv, d), ("self_attn.v", kv, d),
                                 ("self_attn.o", d, d), ("mlp.gate", f, d), ("mlp.up", f, d), ("mlp.down", d, f)):
            add(f"{layer}{name}_proj.weight", rows, cols)
    add("model.norm.weight", d)
    if not c["tie_word_embeddings"]:
        add("lm_head.weight", c["vocab_size"], d)
    return out


def write_teacher(path, shape, tensors):
    path.mkdir(parents=True, exist_ok=True)
    config = shape | dict(architectures=["LlamaForCausalLM"], model_type="llama", hidden_act="silu",
                          torch_dtype="float32")
    (path / "config.json").write_text(json.dumps(config))
    write(path / "model.safetensors", tensors)


def trained_tokenizer():
    """A byte-level BPE as SmolLM2's."""
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                               pre_tokenizers.ByteLevel(add_prefix_space=False)])
    t.decoder = decoders.ByteLevel()
    special = [AddedToken(s, special=True, normalized=False) for s in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")]
    t.train_from_iterator(TEXT.splitlines(), trainers.BpeTrainer(
        vocab_size=TEACHER["vocab_size"], special_tokens=special, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return t


def make_teacher(tied=True, seed=1):
    """A folder with weights and a tokenizer."""
    path, shape = folder() / "teacher", TEACHER | dict(tie_word_embeddings=tied)
    write_teacher(path, shape, random_teacher(shape, seed))
    trained_tokenizer().save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|endoftext|>"}))
    return path


def make_tokens(teacher, repetitions=12):
    """A token file of two documents, and their texts."""
    place, texts = folder(), [TEXT * repetitions, TEXT[40:] * 3]
    files = [place / "one.txt", place / "two.txt"]
    for file, text in zip(files, texts):
        file.write_text(text, encoding="utf-8")
    distil("tokenize", "--tokenizer", teacher, "--text", *files, "--out", place / "tokens.safetensors")
    return place / "tokens.safetensors", texts
