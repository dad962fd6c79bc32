#!/usr/bin/env python3
"""Writes tokenizer_texts.json and tokenizer_<family>.json: small tokenizers of every family with the ids that
Hugging Face's tokenizers gives for a set of awkward texts. Run by hand:

    python3 -m venv venv && venv/bin/pip install tokenizers==0.23.3
    venv/bin/python make_tokenizer_golden.py FOLDER

Made with Python 3.11 (Unicode 14: later characters are left out, since libraries disagree on them).
"""
import json
import pathlib
import random
import sys
import unicodedata

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXT = """
The student reads what the teacher has written, and the teacher's words are worth reading: they weren't chosen
at random. We'll see whether it's enough; I'd say so, you've said so, they're sure, and I'm not. In 1997 and in
2024 there were 12 or 13 of them, 4,096 hidden units, and 100% of the rest. A long recurrence forgets; a gate
that opens and closes decides what stays. WE'LL SEE WHAT THEY'RE ABOUT, IT'S LATE, DON'T WAIT.
for (int i = 0; i < n; ++i) {
    sum += weight[i] * input[i];  // the inner product
}\r\nreturn sum;\r\n
Der Lehrer schreibt, der Schüler liest; größer als nötig wäre überflüssig. L'élève écoute, le maître répète :
« ça va ? » El niño pequeño mañana leerá. Учитель пишет, ученик читает. Ο δάσκαλος γράφει. 学生读老师写的字。
先生が書き、学生が読む。 선생님이 쓰고 학생이 읽는다. المعلم يكتب والطالب يقرأ ١٢٣. शिक्षक लिखता है, छात्र पढ़ता है २०२४।
"""

FAMILIES = {
    "gpt2": None,
    "unknown": None,
    "smollm": None,
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "llama": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())


def pre_tokenizer(family):
    if FAMILIES[family]:
        return pre_tokenizers.Sequence([
            pre_tokenizers.Split(Regex(FAMILIES[family]), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if family == "smollm":
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    return byte_level


def build(family):
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizer(family)
    trainer = trainers.BpeTrainer(vocab_size=256 + 260, initial_alphabet=ALPHABET, show_progress=False)
    trained.train_from_iterator(TEXT.split("\n\n"), trainer)
    model = json.loads(trained.to_str())["model"]
    merges = [tuple(m) for m in model["merges"]]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    if family in ("smollm", "unknown"):  # some bytes without a token, as in SmolLM2
        used = {c for m in merges for part in m for c in part}
        missing = [c for c in ALPHABET if c not in used and not c.isalnum() and c not in "!?#$<|>_"][::4]
        tokens = [t for t in tokens if t not in missing]
    control = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|im_start|>user", "<|e\u0301t\u00e9|>"]
    # ids of the control tokens: at the start, or at the end after a hole (so wide that no id equals the number
    # of tokens, which tokenizers 0.23 mistakes for a new id when it loads its own file)
    if family in ("smollm", "unknown"):
        vocab = {t: i for i, t in enumerate(control + tokens)}
    else:
        vocab = {t: i for i, t in enumerate(tokens)}
        vocab.update({t: i + len(tokens) + 20 for i, t in enumerate(control)})
    if family == "llama":
        vocab["\u0120unmerged"] = len(tokens)  # only a tokenizer that ignores merges gets here
    options = {"ignore_merges": True} if family == "llama" else {}
    if family == "unknown":
        options["unk_token"] = "<|endoftext|>"
    t = Tokenizer(models.BPE(vocab, merges, **options))
    t.pre_tokenizer = pre_tokenizer(family)
    t.decoder = decoders.ByteLevel()
    if family == "qwen2":
        t.normalizer = normalizers.NFC()
    t.add_special_tokens([AddedToken(c, special=True, normalized=False) for c in control])
    t.add_tokens([AddedToken("<tool>", normalized=False), AddedToken("\u00e9tude", normalized=True)])
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    if family == "llama":
        bos = "<|endoftext|>"
        t.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), processors.TemplateProcessing(
            single=bos + " $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, t.token_to_id(bos))])])
    return t


def texts():
    rng = random.Random(20)
    out = ["", " ", "a", "Hello, world!", "The teacher's words; we'll see. WE'LL SEE, I'M SURE, DON'T 'S 'tis 'LLama",
           "it\u2019s he'\u017f \u212a'\u212a 'RE 'vE 'd'D", "naïve café \u0065\u0301te\u0301 \u1e9b\u0323 \u0344 \u212b \u2126",
           "\u1100\u1161\u11a8 \uac01 \u0928\u093c \u0958", "1 12 123 1234 12345678901 3.14159 1,000,000 2024-02-29",
           "x1y22z333 a\u0663\u0664\u0665 \u00b2\u00b3 \u2167 \u00bd \u3007 \u0968\u0966 \U0001d7d9\U0001d7da", "a   1 b  22   c    ",
           "  two  three   four    \t\ttabs \t mixed\t \n", "a\r\nb\rc\nd\n\ne\n\n\n  f \r\n \r\n  g\n ", "\n", "\r\n\r\n", " \n \n ",
           "a\u00a0b \u00a0\u00a0c\u2003\u2003d\u3000e\u2028f\u2029g\u0085h\u180ei\u200bj\u200ck\u200dl\ufeffm\x0bn\x0co\x1cp\x1dq\x1er\x1fs",
           "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f3f3\ufe0f\u200d\U0001f308 \U0001f1e9\U0001f1ea \U0001f44d\U0001f3fd 1\ufe0f\u20e3",
           "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", "<|im_start|>users <|im_start|> user <|im_star <|<|im_end|>|>",
           "a<|endoftext|><|endoftext|>b", "<tool>x</tool> <tool><|tool|>", "une \u00e9tude, une e\u0301tude, <|e\u0301t\u00e9|> <|\u00e9t\u00e9|>",
           " unmerged unmerged", "\x00\x01\x02\x7f\x80\x9f\xad", "\ufffd\ufffe\uffff\U0010ffff\ue000",
           "___---===***///\\\\\\\"\"\"'''```~~~", "foo_bar(baz[0])->qux;//!?\n\t}\r\n", "$\u20ac\u00a3 \u00a9\u00ae\u2122 \u2211\u222b \u00ac\u00a6",
           "x" * 47, "x" * 48, "x" * 49, "the" * 60, "ab" * 150 + "c", " " * 60 + "x", "\u00e9" * 40, "'" * 9 + "s", "\n" * 50 + "x"]
    out += [part for part in TEXT.split("\n") if part]
    categories = {}
    for c in map(chr, range(0x110000)):
        categories.setdefault(unicodedata.category(c), []).append(c)
    for name in sorted(categories):
        if name in ("Cs", "Cn"):
            continue
        some = rng.sample(categories[name], min(6, len(categories[name])))
        out.append("".join(f"a{c}b {c}{c}1  {c}\n" for c in some))
    pieces = ["'s", "'S", "'ll", " ", "  ", "\t", "\n", "\r\n", "\u00a0", "\u0301", "e", "the", "Word", "7", "42", "\u0663", "!", "<tool>",
              "<|im_end|>", "<|im_", "\u00e9", "\u4e2d", "\U0001f600", "\x00", ".", "-", "\u2019"]
    for _ in range(60):
        out.append("".join(rng.choice(pieces) for _ in range(rng.randint(2, 14))))
    return out


def main():
    folder = pathlib.Path(sys.argv[1])
    samples = texts()

    def write(name, value):
        (folder / name).write_text(json.dumps(value, separators=(",", ":")) + "\n")

    write("tokenizer_texts.json", samples)
    rng = random.Random(21)
    for family in FAMILIES:
        t = build(family)
        data = json.loads(t.to_str())
        if family in ("gpt2", "smollm"):  # the older spelling of merges
            data["model"]["merges"] = [" ".join(m) for m in data["model"]["merges"]]
        t.encode_special_tokens = False
        ids = [t.encode(s, add_special_tokens=False).ids for s in samples]
        t.encode_special_tokens = True
        plain = [t.encode(s, add_special_tokens=False).ids for s in samples]
        t.encode_special_tokens = False
        known = [i for i in range(t.get_vocab_size()) if t.id_to_token(i)]
        decoded = []
        for _ in range(40):
            some = [rng.choice(known) for _ in range(rng.randint(1, 12))]
            decoded.append([some, t.decode(some, skip_special_tokens=False), t.decode(some, skip_special_tokens=True)])
        write(f"tokenizer_{family}.json", {
            "tokenizer": data, "ids": ids,
            "without_control": {str(i): p for i, p in enumerate(plain) if p != ids[i]}, "decoded": decoded})


if __name__ == "__main__":
    main()
