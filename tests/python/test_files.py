"""Every file that the program writes, opened by other people's packages; token files made by Python."""
import json
import logging
import re
import shutil
import struct
import unittest

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer

from common import apart, as_stored, distil, folder, logits, make_teacher, make_tokens, metadata, numbers, read, refused

try:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
except ImportError:
    EventAccumulator = None

BLOCKS, LENGTH, STEPS = 3, 24, 9


def setUpModule():
    global teacher, tokens, texts, out
    teacher = make_teacher()
    tokens, texts = make_tokens(teacher)
    out = folder() / "run"
    train(out, "--teacher", teacher)


def train(to, *options):
    distil("train", "--tokens", tokens, "--held-out", tokens, "--out", to, "--blocks", BLOCKS, "--batch", 4, "--length",
           LENGTH, "--steps", STEPS, "--lr", 0.02, "--beta", 0.1, "--checkpoint-every", 3, "--threads", 1, *options)


def perplexity(tokens):
    return json.loads(distil("evaluate", "--model", out / "student", "--tokens", tokens, "--window", 16, "--json"))


def metrics(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "ce" in line], [line for line in lines if "held_out_ppl" in line]


class TokenFiles(unittest.TestCase):
    def test_the_program_s_opens_in_python(self):
        found, about = read(tokens), metadata(tokens)
        self.assertEqual({k: (t, x.ndim) for k, (t, x) in found.items()}, {"ids": ("U16", 1), "documents": ("I64", 1)})
        tokenizer = Tokenizer.from_file(str(teacher / "tokenizer.json"))
        ids, documents = [], []
        for text in texts:
            documents.append(len(ids))
            ids += [0] + tokenizer.encode(text, add_special_tokens=False).ids + [0]
        self.assertEqual(found["ids"][1].tolist(), ids)
        self.assertEqual(found["documents"][1].tolist(), documents)
        self.assertEqual(int(about["vocab_size"]), tokenizer.get_vocab_size())
        self.assertRegex(about["tokenizer_sha256"], r"^[0-9a-f]{64}$")
        self.assertEqual(about["end_token"], "0")

    def test_python_s_is_accepted(self):
        theirs, about = numbers(tokens), metadata(tokens)
        place = folder()
        expected = perplexity(tokens)
        for dtype in (np.int32, np.uint16):
            for said in (about, {"vocab_size": about["vocab_size"]}):
                file = place / f"{dtype.__name__}.safetensors"
                save_file({"documents": theirs["documents"], "ids": theirs["ids"].astype(dtype)}, file, said)
                self.assertEqual(perplexity(file), expected)
                distil("train", "--teacher", teacher, "--tokens", file, "--out", folder() / "run", "--blocks", BLOCKS,
                       "--batch", 4, "--length", LENGTH, "--steps", 2, "--threads", 1)

    def test_what_is_refused(self):
        good, about, place = numbers(tokens), metadata(tokens), folder()
        ids, documents = good["ids"].astype(np.int32), good["documents"]
        beyond = ids.copy()
        beyond[7] = 384
        for said, tensors, notes in (
                ("position 7", {"ids": beyond, "documents": documents}, about),
                ("documents", {"ids": ids}, about),
                ("must be I64", {"ids": ids, "documents": documents.astype(np.int32)}, about),
                ("ids", {"ids": ids.astype(np.int64), "documents": documents}, about),
                ("vocab_size", {"ids": ids, "documents": documents}, {}),
                ("another tokenizer", {"ids": ids, "documents": documents}, about | {"tokenizer_sha256": "0" * 64}),
                ("tokens.safetensors", {"ids": ids, "documents": documents[::-1].copy()}, about)):
            with self.subTest(said):
                save_file(tensors, place / "tokens.safetensors", notes)
                line = refused("train", "--teacher", teacher, "--tokens", place / "tokens.safetensors", "--out",
                               place / "run", "--steps", 1, "--length", LENGTH)
                self.assertIn(said, line)


class WrittenByTheProgram(unittest.TestCase):
    def test_logits(self):
        for model, depth in ((teacher, 2), (out / "student", BLOCKS)):
            for precision, dtype in (("fp32", np.float32), ("bf16", np.float32), ("fp64", np.float64)):
                found = logits(model, np.arange(12).reshape(2, 6), precision)
                self.assertEqual(set(found), {"logits", "last_hidden"} | {f"hidden.{i}" for i in range(depth + 1)})
                self.assertTrue(all(x.dtype == dtype for x in found.values()))
                self.assertEqual(found["logits"].shape, (2, 6, 384))
                self.assertTrue(all(x.shape == (2, 6, 32) for name, x in found.items() if name != "logits"))

    def test_a_cache(self):
        cache = folder() / "cache"
        distil("cache", "--teacher", teacher, "--tokens", tokens, "--length", LENGTH, "--out", cache, "--store", "fp32",
               "--alignment", "average", "--threads", 1)
        about = json.loads((cache / "manifest.json").read_text())
        ids = numbers(tokens)["ids"]
        windows = (len(ids) - 1) // LENGTH
        self.assertEqual((about["windows"], about["length"], about["width"], about["layers"], about["precision"]),
                         (windows, LENGTH, 32, 2, "F32"))
        last = numbers(cache / "last_hidden.safetensors")
        target = numbers(cache / "target.0.safetensors")
        ends = read(cache / "ends.safetensors")
        self.assertEqual({k: x.size for k, x in last.items()}, {"hidden": windows * LENGTH * 32})
        self.assertEqual({k: x.size for k, x in target.items()}, {"hidden": windows * LENGTH * 32})
        self.assertEqual(set(ends), {"embedding"})
        weights = numbers(teacher / "model.safetensors")
        self.assertTrue((ends["embedding"][1] == weights["model.embed_tokens.weight"]).all())
        # What is cached of the first document's windows is what the teacher says of each by itself.
        first = int(numbers(tokens)["documents"][1]) // LENGTH
        given = ids[:first * LENGTH].reshape(first, LENGTH)
        said = logits(teacher, given)
        self.assertLess(apart(last["hidden"].reshape(windows, LENGTH, 32)[:first], said["last_hidden"]), 1e-5)
        mean = (said["hidden.1"] + said["last_hidden"]) / 2
        self.assertLess(apart(target["hidden"].reshape(windows, LENGTH, 32)[:first], mean), 1e-5)
        # Half as large: bf16, what is stored by default.
        half = folder() / "cache"
        distil("cache", "--teacher", teacher, "--tokens", tokens, "--length", LENGTH, "--out", half, "--threads", 1)
        for name, full in (("last_hidden", last), ("target.0", target)):
            dtype, x = read(half / f"{name}.safetensors")["hidden"]
            self.assertEqual(dtype, "BF16")
            self.assertTrue((x == as_stored(full["hidden"], "BF16")).all())

    def test_a_checkpoint(self):
        steps = sorted((out / "checkpoints").glob("step-*"))
        self.assertEqual([s.name for s in steps], [f"step-{n:08d}" for n in (STEPS - 3, STEPS)])
        state, student = numbers(steps[-1] / "state.safetensors"), numbers(out / "student/model.safetensors")
        trained = {k for k in student if k != "token_embedding.weight"}
        self.assertEqual(set(state), {p + k for p in ("weight.", "first_moment.", "second_moment.") for k in trained})
        for name in trained:
            self.assertTrue((state["weight." + name] == student[name]).all(), name)
            self.assertEqual(state["first_moment." + name].shape, student[name].shape)
            self.assertTrue((state["second_moment." + name] >= 0).all(), name)
        about = json.loads((steps[-1] / "manifest.json").read_text())
        self.assertEqual((about["step"], about["total_steps"], about["precision"]), (STEPS, STEPS, "F32"))
        self.assertEqual(metadata(steps[-1] / "state.safetensors")["format"], "distil_xlstm.checkpoint")

    def test_the_folder_of_a_student(self):
        student = out / "student"
        self.assertEqual({f.name for f in student.iterdir()}, {"config.json", "model.safetensors", "tokenizer.json",
                                                               "tokenizer_config.json", "distil_xlstm.json"})
        self.assertEqual(metadata(student / "model.safetensors"), {"format": "pt"})
        weights = numbers(teacher / "model.safetensors")["model.embed_tokens.weight"]
        self.assertTrue((numbers(student / "model.safetensors")["token_embedding.weight"] == weights).all())


# ---- TensorBoard ------------------------------------------------------------------------------------------------

TABLE = [0] * 256
for byte in range(256):
    c = byte
    for _ in range(8):
        c = c >> 1 ^ (0x82F63B78 if c & 1 else 0)
    TABLE[byte] = c


def masked_crc32c(data):
    c = 0xFFFFFFFF
    for b in data:
        c = TABLE[(c ^ b) & 255] ^ c >> 8
    c ^= 0xFFFFFFFF
    return ((c >> 15 | c << 17) + 0xA282EAD8) & 0xFFFFFFFF


def records(path):
    """The records of a TFRecord file; their check sums hold."""
    raw, at = path.read_bytes(), 0
    while at < len(raw):
        length, sum_of_length = struct.unpack_from("<QI", raw, at)
        data = raw[at + 12:at + 12 + length]
        assert masked_crc32c(raw[at:at + 8]) == sum_of_length
        assert masked_crc32c(data) == struct.unpack_from("<I", raw, at + 12 + length)[0]
        yield data
        at += 16 + length


def fields(message):
    """(number, value) of a protocol buffer."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            b = message[at]
            at, value, shift = at + 1, value | (b & 127) << shift, shift + 7
            if b < 128:
                return value

    while at < len(message):
        key = varint()
        if key & 7 == 0:
            yield key >> 3, varint()
            continue
        size = {1: 8, 5: 4}.get(key & 7) or varint()
        yield key >> 3, message[at:at + size]
        at += size


def scalars(path):
    """{tag: [(step, value)]} of an event file."""
    out = {}
    for n, record in enumerate(records(path)):
        event = dict(fields(record))
        assert event.keys() <= {1, 2, 3, 5, 7} and len(event[1]) == 8
        if n == 0:
            assert event[3] == b"brain.Event:2"
        for number, value in fields(event.get(5, b"")):
            one = dict(fields(value))
            assert number == 1 and one.keys() == {1, 2}
            out.setdefault(one[1].decode(), []).append((event.get(2, 0), struct.unpack("<f", one[2])[0]))
    return out


class TensorBoard(unittest.TestCase):
    def expected(self, run):
        steps, held_out = metrics(run)
        names = {"loss/ce": "ce", "loss/kl": "kl", "loss/alignment": "alignment", "loss/total": "total",
                 "optimiser/grad_norm": "grad_norm", "optimiser/lr": "lr", "schedule/alpha": "alpha",
                 "schedule/beta": "beta", "schedule/temperature": "temperature"}
        out = {tag: [(s["step"], s[key]) for s in steps] for tag, key in names.items()}
        out["held_out/perplexity"] = [(s["step"], s["held_out_ppl"]) for s in held_out if s["step"] > 0]
        return out

    def same(self, found, expected):
        self.assertEqual(set(found), set(expected) | {"speed/tokens_per_second"})
        for tag, series in expected.items():
            self.assertEqual([step for step, _ in found[tag]], [step for step, _ in series], tag)
            for (_, a), (_, b) in zip(found[tag], series):
                self.assertAlmostEqual(a, b, delta=1e-6 * abs(b), msg=tag)

    def test_events(self):
        files = list(out.glob("events.out.tfevents.*"))
        self.assertEqual(len(files), 1)
        self.assertRegex(files[0].name, r"^events\.out\.tfevents\.\d{10}\.\w+")
        self.same(scalars(files[0]), self.expected(out))

    @unittest.skipUnless(EventAccumulator, "the package tensorboard is not there")
    def test_the_package_tensorboard(self):
        def seen(run):
            logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it tells of what it drops
            events = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
            return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}

        self.same(seen(out), self.expected(out))
        # A run that lost its last steps does them again: TensorBoard shows each once.
        again = folder() / "run"
        shutil.copytree(out, again)
        shutil.rmtree(again / "checkpoints" / f"step-{STEPS:08d}")
        train(again, "--teacher", teacher, "--resume")
        self.assertEqual(len(list(again.glob("events.out.tfevents.*"))), 2)
        self.assertEqual([s["step"] for s in metrics(again)[0]], list(range(1, STEPS + 1)))
        self.same(seen(again), self.expected(again))


class Inspect(unittest.TestCase):
    def test_what_python_counts(self):
        for file in (tokens, out / "student/model.safetensors", teacher / "model.safetensors"):
            shown = distil("inspect", file).decode()
            for name, (dtype, x) in read(file).items():
                self.assertRegex(shown, rf"{re.escape(name)} +{dtype} +\[{', '.join(map(str, x.shape))}\]")


if __name__ == "__main__":
    unittest.main()
