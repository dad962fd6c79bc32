#!/usr/bin/env python3
"""seeds.py FOLDER: a corpus for each fuzz target, from the golden files and small ones made here."""
import json
import pathlib
import struct
import sys

out = pathlib.Path(sys.argv[1])
golden = pathlib.Path(__file__).resolve().parent.parent / "golden"
LARGEST = 20_000


def seed(target, name, data):
    if len(data) <= LARGEST:
        folder = out / target
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def text(s):
    raw = s.encode()
    return struct.pack("<Q", len(raw)) + raw


def gguf():
    """One key of each type, an array, a tensor of each type that is read."""
    keys = [(0, "<B", 7), (1, "<b", -7), (2, "<H", 700), (3, "<h", -700), (4, "<I", 7), (5, "<i", -7), (6, "<f", 0.5),
            (7, "<?", True), (10, "<Q", 7), (11, "<q", -7), (12, "<d", 0.5)]
    body = b"".join(text(f"key.{t}") + struct.pack("<I", t) + struct.pack(f, v) for t, f, v in keys)
    body += text("general.architecture") + struct.pack("<I", 8) + text("llama")
    body += text("tokens") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("b")
    tensors = [("f32", 0, 8, 32), ("f16", 1, 8, 16), ("q4_0", 2, 32, 18), ("q4_1", 3, 32, 20), ("q5_0", 6, 32, 22),
               ("q8_0", 8, 32, 34), ("q4_k", 12, 256, 144), ("q6_k", 14, 256, 210), ("bf16", 30, 8, 16)]
    infos, data = b"", b""
    for name, kind, numbers, size in tensors:
        infos += text(name) + struct.pack("<IQIQ", 1, numbers, kind, len(data))
        data += bytes(range(size % 256)) + bytes(size - size % 256)
        data += bytes(-len(data) % 32)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys) + 2) + body + infos
    return head + bytes(-len(head) % 32) + data


def safetensors(tensors, metadata=None):
    header, data = ({"__metadata__": metadata} if metadata else {}), b""
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    return struct.pack("<Q", len(raw)) + raw + data


for n, file in enumerate(sorted(golden.rglob("*.safetensors"))):
    seed("fuzz_safetensors", f"{n}", file.read_bytes())
    seed("fuzz_checkpoint", f"{n}", b"\1" + file.read_bytes())
for n, file in enumerate(sorted(golden.rglob("config.json"))):
    seed("fuzz_config_json", f"{n}", file.read_bytes())
for file in sorted(golden.glob("tokenizer_*.json")):
    seed("fuzz_tokenizer_json", file.stem, file.read_bytes())
for file in sorted((golden.parent / "program" / "chat_templates").glob("*.jinja")):
    seed("fuzz_chat_template", file.stem, file.read_bytes())
for n, (construct, _) in enumerate(json.loads((golden / "chat_templates.json").read_text())["constructs"]):
    seed("fuzz_chat_template", f"construct_{n}", construct.encode())
seed("fuzz_gguf", "every_type", gguf())
for dtype, form in (("I32", "i"), ("U16", "H")):
    ids = struct.pack(f"<9{form}", *range(9))
    seed("fuzz_token_file", dtype, safetensors(
        {"ids": (dtype, [9], ids), "documents": ("I64", [2], struct.pack("<2q", 0, 4))}, {"vocab_size": "12"}))
cloze = {"doc_id": 0, "idx": 0, "label": 0, "request": {"context": "It rains in", "continuation": " Spain"}, "doc": {}}
choice = [{"doc_id": d, "idx": i, "label": 1, "request": {"context": "Q", "continuation": f" {i}"}, "doc": {}}
          for d in (0, 1, 1000000) for i in range(3)]
seed("fuzz_requests", "cloze", b"\1" + json.dumps(cloze).encode())
seed("fuzz_requests", "choice", b"\1" + "\n".join(map(json.dumps, choice)).encode())
for n, files in enumerate(({"embed": "1.safetensors", "layers.0.w": "1.safetensors", "norm": "2.safetensors"},
                           {"embed": "1.safetensors"}, {"embed": "2.safetensors", "norm": "3.safetensors"}, {"x": "../1"}, [])):
    seed("fuzz_tensor_folder", f"{n}", json.dumps({"metadata": {"total_size": 32}, "weight_map": files}).encode())
manifest = {"format": 1, "step": 3, "updates": 3, "skipped": 0, "unusable": 0, "total_steps": 9, "precision": "F32",
            "run": {"seed": 1}}
seed("fuzz_checkpoint", "manifest", b"\0" + json.dumps(manifest).encode())
