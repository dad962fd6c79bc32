"""SmolLM2-135M-Instruct, where examples/quickstart.sh has fetched it, against tokenizers and transformers."""
import importlib.util
import os
import pathlib
import unittest

import gguf
import numpy as np
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from common import ROOT, apart, distil, logits
from test_tokenizer import TEXTS

FILE = pathlib.Path(os.environ.get("DISTIL_XLSTM_TEACHER",
                                   ROOT / "build/quickstart/SmolLM2-135M-Instruct.Q4_1.gguf"))
TEXT = """The capital of France is Paris. In 1789 the river rose, and  the teacher
said: 'we'll see what the 12 of you think.'"""


@unittest.skipUnless(FILE.exists(), f"{FILE} is not there")
class RealTokenizer(unittest.TestCase):
    def test_ids(self):
        keys = gguf.GGUFReader(FILE).fields
        tokens, types, merges = (keys[f"tokenizer.ggml.{k}"].contents() for k in ("tokens", "token_type", "merges"))
        t = Tokenizer(models.BPE({s: i for i, s in enumerate(tokens)}, [tuple(m.split(" ")) for m in merges]))
        t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                                   pre_tokenizers.ByteLevel(add_prefix_space=False)])
        control = [s for s, kind in zip(tokens, types) if kind == 3]
        t.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in control])
        for text in TEXTS[::6]:
            got = distil("tokenize", "--tokenizer", FILE, "--ids", input=text.encode()).split()
            self.assertEqual([int(i) for i in got], t.encode(text, add_special_tokens=False).ids, repr(text))


@unittest.skipUnless(FILE.exists(), f"{FILE} is not there")
@unittest.skipUnless(all(map(importlib.util.find_spec, ("transformers", "accelerate", "torch"))),
                     "transformers or accelerate is not there")
class RealTeacher(unittest.TestCase):
    def test_logits_and_hidden_states(self):
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        given = [int(i) for i in distil("tokenize", "--tokenizer", FILE, "--ids", input=TEXT.encode()).split()]
        tokenizer = AutoTokenizer.from_pretrained(str(FILE.parent), gguf_file=FILE.name)
        self.assertEqual(given, tokenizer(TEXT, add_special_tokens=False)["input_ids"])
        ids = np.array([given])
        model = AutoModelForCausalLM.from_pretrained(str(FILE.parent), gguf_file=FILE.name, dtype=torch.float32).eval()
        found, hooks = {}, []

        def keep(name):
            return lambda module, args, out: found.__setitem__(
                name, (out[0] if isinstance(out, tuple) else out).detach().numpy().copy())

        for name, module in [("hidden.0", model.model.embed_tokens), ("last_hidden", model.model.norm)] + [
                (f"hidden.{n}", layer) for n, layer in enumerate(model.model.layers, 1)]:
            hooks.append(module.register_forward_hook(keep(name)))
        with torch.no_grad():
            found["logits"] = model(torch.from_numpy(ids), use_cache=False).logits.numpy()
        for hook in hooks:
            hook.remove()
        ours = logits(FILE, ids, "fp32")
        self.assertEqual(set(ours), set(found))
        off = {name: apart(ours[name], found[name]) for name in found}
        farthest = max(off, key=off.get)
        print(f"\nreal teacher: logits {off['logits']:.1e}, farthest of all {farthest} {off[farthest]:.1e}")
        self.assertLess(off[farthest], 1e-3)
        self.assertTrue((ours["hidden.0"] == found["hidden.0"]).all())


if __name__ == "__main__":
    unittest.main()
