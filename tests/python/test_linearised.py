"""Linearised students in PyTorch, which tests/golden/make_linearised.py writes down: what `distil linearise` saves is
opened there, strictly, and says the same."""
import sys
import unittest

import numpy as np
import torch
from safetensors.numpy import save_file

from common import GOLDEN, distil, folder, numbers

sys.path.insert(0, str(GOLDEN))
from make_linearised import open_folder  # noqa: E402

torch.set_num_threads(1)


class Linearised(unittest.TestCase):
    def test_a_folder_of_ours(self):
        random = np.random.default_rng(4)
        for teacher, mixers in (("llama_rope_parameters", "hybrid,mlstm"), ("qwen2_rope_theta", "window,hybrid")):
            with self.subTest(teacher):
                here = folder()
                save_file({"ids": random.integers(96, size=400, dtype=np.int32), "documents": np.array([0, 150])},
                          here / "tokens.safetensors", metadata={"vocab_size": "96"})
                ids = random.integers(96, size=(2, 40), dtype=np.int32)
                save_file({"ids": ids}, here / "ids.safetensors")
                distil("linearise", "--teacher", GOLDEN / "teacher" / teacher, "--tokens", here / "tokens.safetensors",
                       "--out", here / "run", "--mixers", mixers, "--window", 5, "--sinks", 2, "--batch", 2,
                       "--length", 16, "--align-tokens", 64, "--distil-tokens", 64, "--needle", "none",
                       "--precision", "fp64")
                distil("logits", "--model", here / "run/student", "--ids", here / "ids.safetensors", "--out",
                       here / "logits.safetensors", "--precision", "fp64")
                with torch.no_grad():
                    want = open_folder(here / "run/student")(torch.from_numpy(ids).long()).numpy()
                torch.set_default_dtype(torch.float32)
                got = numbers(here / "logits.safetensors")["logits"]
                self.assertLessEqual(np.abs(got - want).max() / np.abs(want).max(), 1e-10)


if __name__ == "__main__":
    unittest.main()
