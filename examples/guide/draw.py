#!/usr/bin/env python3
r"""Draws the pictures of README.md, legible on a light page and on a dark one.

    python3 examples/guide/draw.py             writes examples/guide/*.svg
    python3 examples/guide/draw.py --check     exits with 1 where one of them differs from what would be written
    python3 examples/guide/draw.py --run FILE  makes run.jsonl of a run's metrics.jsonl

method.svg           the two methods
include_layers.svg   the folders of include/distil_xlstm: in the layers of cmake/include_layers.cmake, with the number of
                     their headers and what these include
report.svg           six charts of a run's report, drawn from run.jsonl as `distil train` draws them

Colours are those of examples/distil/report.html. The run, with teacher and text of examples/quickstart.sh, the first
70 lines of Ecclesiastes held out:

    distil train --teacher SmolLM2-135M-Instruct.Q4_1.gguf --tokens train.safetensors \
      --held-out held_out.safetensors --steps 240 --batch 4 --length 64 --precision bf16 \
      --alpha 0.9:0.3 --beta 0.1 --temperature 4:1 --schedule linear --evaluate-every 20 --out run
"""
import json
import math
import pathlib
import re
import sys
from html import escape

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent


# The canvas ---------------------------------------------------------------------------------------------------------

def colours():
    """The report's colours by name, light and dark."""
    light, dark = re.findall(r":root\{([^}]*)\}", (ROOT / "examples/distil/report.html").read_text("utf-8"))[:2]
    return [dict(re.findall(r"--(\w+):(#\w+)", rules)) for rules in (light, dark)]


FILLS = {"ink": "ink", "ink2": "ink2", "ink3": "ink3", "fa": "a", "fb": "b", "fc": "c", "fd": "d", "card": "card",
         "wash": "wash", "grey": "page"}
STROKES = {"rule": "rule", "axis": "axis", "line": "ink2", "faint": "ink3", "sa": "a", "sb": "b",
           "sc": "c", "sd": "d"}
STYLE = ("text{font-family:system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif}"
         ".m{text-anchor:middle}.e{text-anchor:end}.bold{font-weight:620}.dash{stroke-dasharray:5 4}"
         ".w2{stroke-width:2}.raw{opacity:.28}path{fill:none;stroke-linejoin:round;stroke-linecap:round}")


def rules(colour):
    return ("".join(f".{name}{{fill:{colour[of]}}}" for name, of in FILLS.items()) +
            "".join(f".{name}{{stroke:{colour[of]}}}" for name, of in STROKES.items()))


def number(x):
    return f"{x:.1f}".removesuffix(".0")


def width_of(text, size):
    """About the width of a text; no usual sans-serif font is much wider."""
    narrow, wide = "iljtfrI.,:;'|·()[] ", "mwMWO×→‖−+=~"
    return size * math.fsum(0.34 if c in narrow else 0.86 if c in wide else 0.68 if c.isupper() else 0.57 for c in text)


class Picture:
    def __init__(self, width, height, title):
        self.parts, self.width, self.height, self.title = [], width, height, title

    def add(self, part):
        self.parts.append(part)

    def text(self, x, y, text, style="ink", size=13, room=None):
        """`room`: what the text must fit in."""
        if room is not None and width_of(text, size) > room:
            raise SystemExit(f"draw.py: '{text}' is {width_of(text, size):.0f} wide, there is room for {room:.0f}")
        self.add(f'<text x="{number(x)}" y="{number(y)}" class="{style}" font-size="{size}">{escape(text)}</text>')

    def rect(self, x, y, w, h, style, r=6):
        x, y, w, h = map(number, (x, y, w, h))
        self.add(f'<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="{r}" class="{style}"/>')

    def box(self, x, y, w, h, style, *lines, size=13, ink="ink"):
        """A box with lines of text in its middle, the first larger than the others."""
        self.rect(x, y, w, h, style)
        heights = [size + 3] + [size + 1] * (len(lines) - 1)
        at = y + (h - sum(heights)) / 2
        for i, line in enumerate(lines):
            self.text(x + w / 2, at + heights[i] * 0.8, line, f"m {ink if i == 0 else 'ink2'}", size - (i > 0), w - 8)
            at += heights[i]

    def path(self, points, style):
        self.add('<path d="M' + "L".join(f"{number(x)} {number(y)}" for x, y in points) + f'" class="{style}"/>')

    def arrow(self, *points, style="line", head="ink2", both=False):
        """A line through points that ends (`both`: and begins) in a head."""
        line = [list(p) for p in points]
        heads = []
        for end, before in ((-1, -2), (0, 1))[:1 + both]:
            (x, y), (bx, by) = line[end], line[before]
            n = math.hypot(x - bx, y - by)
            u, v = (x - bx) / n, (y - by) / n
            heads.append((x, y, x - 8 * u - 4 * v, y - 8 * v + 4 * u, x - 8 * u + 4 * v, y - 8 * v - 4 * u))
            line[end] = [x - 6 * u, y - 6 * v]
        self.path(line, style)
        for h in heads:
            self.add('<path d="M{} {}L{} {}L{} {}Z" style="stroke:none" class="{}"/>'.format(*map(number, h), head))

    def svg(self):
        (light, dark), w, h, title = colours(), number(self.width), number(self.height), escape(self.title)
        return ('<svg xmlns="http://www.w3.org/2000/svg" role="img" '
                f'viewBox="0 0 {w} {h}" width="{w}" height="{h}">\n'
                f"<title>{title}</title>\n<style>{STYLE}\n{rules(light)}\n"
                f"@media(prefers-color-scheme:dark){{{rules(dark)}}}</style>\n" +
                "\n".join(self.parts) + "\n</svg>\n")


# The two methods ----------------------------------------------------------------------------------------------------

def method():
    p = Picture(960, 676, "Two methods: new recurrent blocks between a frozen teacher's embedding and head; "
                          "a transformer's own layers with attention replaced by a memory and a window")
    frozen, new, kept, data = "grey axis", "wash sa w2", "card sa", "card axis"
    teacher_w, student_w = 124, 184

    for x0, name, says in ((0, "distil train", "new blocks between the teacher's embedding and head"),
                           (488, "distil linearise", "the teacher's own layers, attention replaced")):
        p.rect(x0 + 0.5, 0.5, 471, 631, "card rule", 10)
        p.text(x0 + 18, 30, name, "ink bold", 17)
        p.text(x0 + 18, 50, says, "ink2", 13, 440)

    def columns(x0):
        """Left edges of teacher and student, their middles, and the middle between them."""
        teacher, student = x0 + 18, x0 + 472 - 18 - student_w
        return teacher, student, teacher + teacher_w / 2, student + student_w / 2, (teacher + teacher_w + student) / 2

    def headings(x0):
        _, _, t, s, _ = columns(x0)
        p.text(t, 88, "teacher", "m ink bold", 14)
        p.text(s, 88, "student", "m ink bold", 14)

    def term(x0, y, colour, *lines):
        """A loss between teacher and student."""
        teacher, student, _, _, middle = columns(x0)
        h = 10 + 16 * len(lines)
        p.arrow((middle - 54, y), (teacher + teacher_w + 1, y), style=f"s{colour}", head=f"f{colour}")
        p.arrow((middle + 54, y), (student - 1, y), style=f"s{colour}", head=f"f{colour}")
        p.box(middle - 54, y - h / 2, 108, h, f"card s{colour}", *lines, ink=f"f{colour}")

    def down(x, *pairs, **colour):
        for y, to in pairs:
            p.arrow((x, y), (x, to), **colour)

    blue = {"style": "sa", "head": "fa"}

    # Distil-xLSTM.
    teacher, student, t, s, middle = columns(0)
    whole = student + student_w - teacher
    headings(0)
    p.box(middle - 36, 71, 72, 24, data, "text")
    down(middle, (95, 112))
    p.box(teacher, 112, whole, 34, frozen, "embedding, the teacher's")
    p.rect(teacher, 170, teacher_w, 176, frozen)
    p.text(t, 189, "its layers", "m ink2", 12)
    for y in (198, 265):
        p.box(teacher + 12, y, teacher_w - 24, 26, frozen, "attention")
        p.box(teacher + 12, y + 30, teacher_w - 24, 26, frozen, "MLP")
    p.text(t, 338, "…", "m ink2", 13)
    p.rect(student, 170, student_w, 176, data)
    p.text(student + 10, 189, "N blocks", "ink2", 12)
    down(t, (146, 170))
    p.path([(s, 146), (s, 196)], "line")
    for y, name in ((204, "mLSTM"), (280, "sLSTM")):
        # The residual connection goes around the block, to where its output is added.
        side, sum_ = student + student_w - 18, y + 48
        p.path([(s, y - 14), (side, y - 14), (side, sum_)], "line")
        p.arrow((side, sum_), (s + 8, sum_))
        p.arrow((s, y - 14), (s, y))
        p.box(s - 54, y, 108, 34, new, name, size=15)
        p.path([(s, y + 34), (s, sum_ + 18)], "line")
        p.add(f'<circle cx="{number(s)}" cy="{number(sum_)}" r="7" class="card line"/>')
        p.path([(s - 4, sum_), (s + 4, sum_)], "line")
        p.path([(s, sum_ - 4), (s, sum_ + 4)], "line")
    term(0, 258, "c", "alignment", "Frobenius")
    down(t, (346, 370), (404, 428))
    down(s, (346, 370), (404, 428))
    p.box(teacher, 370, whole, 34, frozen, "head, the teacher's")
    p.box(teacher, 428, teacher_w, 34, data, "probabilities")
    p.box(student, 428, student_w, 34, data, "probabilities")
    term(0, 445, "d", "KL", "tempered")
    p.box(teacher, 486, teacher_w, 34, data, "the next token")
    p.arrow((middle - 54, 503), (teacher + teacher_w + 1, 503), style="sb", head="fb")
    p.arrow((middle + 54, 503), (s, 503), (s, 463), style="sb", head="fb")
    p.box(middle - 54, 490, 108, 26, "card sb", "cross-entropy", ink="fb")

    # Linearisation.
    teacher, student, t, s, middle = columns(488)
    headings(488)
    p.box(teacher, 112, teacher_w, 34, frozen, "embedding")
    p.box(student, 112, student_w, 34, kept, "embedding")
    p.box(middle - 36, 117, 72, 24, data, "text")
    p.arrow((middle - 36, 129), (teacher + teacher_w + 1, 129))
    p.arrow((middle + 36, 129), (student - 1, 129))
    p.rect(teacher, 170, teacher_w, 176, frozen)
    p.rect(student, 170, student_w, 176, kept)
    for x in (t, s):
        down(x, (146, 170), (346, 370), (404, 428))
        p.text(x, 189, "each layer", "m ink2", 12)
    p.box(teacher + 12, 198, teacher_w - 24, 94, frozen, "attention", "all tokens")
    p.box(teacher + 12, 308, teacher_w - 24, 26, frozen, "MLP")
    half = (student_w - 24 - 8) / 2
    p.box(student + 12, 198, half, 46, new, "memory", "r")
    p.box(student + 20 + half, 198, half, 46, new, "window", "w")
    p.box(student + 12, 262, student_w - 24, 30, new, "o r + (1 − o) w")
    p.box(student + 12, 308, student_w - 24, 26, kept, "MLP")
    down(t, (292, 308))
    down(s, (292, 308))
    down(student + 12 + half / 2, (244, 261))
    down(student + 20 + half * 1.5, (244, 261))
    term(488, 245, "c", "1. mixers", "by their outputs")
    p.box(teacher, 370, teacher_w, 34, frozen, "head")
    p.box(student, 370, student_w, 34, kept, "head")
    p.box(teacher, 428, teacher_w, 34, data, "probabilities")
    p.box(student, 428, student_w, 34, data, "probabilities")
    term(488, 445, "d", "2. all weights", "by KL")
    for i, (name, says) in enumerate((("r", "mLSTM over softmax features of queries and keys"),
                                      ("w", "attention over the last 64 tokens and the first 4"),
                                      ("o", "a gate of each head"))):
        p.text(teacher, 489 + 17 * i, name, "ink bold", 12.5)
        p.text(teacher + 18, 489 + 17 * i, says, "ink2", 12.5, 410)

    # How the weights of the losses go; what a text's memory takes.
    def chart(x0, title, below, lines):
        p.text(x0 + 18, 562, title[0], "ink", 13)
        p.text(x0 + 18, 580, title[1], "ink2", 12)
        left, right, top, bottom = x0 + 200, x0 + 360, 544, 604
        p.path([(left, top - 4), (left, bottom), (right, bottom)], "axis")
        p.text((left + right) / 2, bottom + 17, below, "m ink2", 12)
        for (from_, to), stroke, ink, name in lines:
            y = [bottom - v * (bottom - top) for v in (from_, to)]
            p.path([(left, y[0]), (right, y[1])], f"{stroke} w2")
            p.text(right + 8, y[1] + 4, name, ink, 12, 472 - 360 - 10)

    chart(0, ("weights of the losses", "are annealed"), "training",
          (((0.95, 0.35), "sd", "fd", "KL"), ((0.05, 0.65), "sb", "fb", "cross-entropy"),
           ((0.1, 0.1), "sc", "fc", "alignment")))
    chart(488, ("memory of a text", "the student's is constant"), "tokens",
          (((0.05, 1), "faint", "ink2", "teacher"), ((0.15, 0.15), "sa", "fa", "student")))

    at = 18
    for style, name in ((frozen, "the teacher's, frozen"), (kept, "the teacher's, trained"), (new, "new, trained")):
        p.rect(at, 646, 24, 18, style, 4)
        p.text(at + 32, 660, name, "ink3", 13)
        at += 32 + width_of(name, 13) + 24
    return p


# The include layers -------------------------------------------------------------------------------------------------

INCLUDE = ROOT / "include/distil_xlstm"
FOLDERS = {
    "core": "views, extents, types of numbers, errors",
    "math": "scalar equations, each once",
    "schedule": "weights and rates by step",
    "device": "what a machine is",
    "op": "what is computed on it",
    "comm": "what processes exchange",
    "block": "layers: mLSTM, sLSTM, …",
    "loss": "terms of objectives",
    "optim": "AdamW",
    "io": "files, tokenizers",
    "model": "teachers, students, decoders",
    "distil": "training, judging",
    "testing": "laws, gradients, tolerances",
}


def included(header):
    """The folders that a header includes."""
    return set(re.findall(r"^ *# *include <distil_xlstm/(\w+)/", header.read_text("utf-8"), re.M))


def folders():
    """Of each folder its layer by cmake/include_layers.cmake, its number of headers, what other folders they include."""
    layers = re.findall(r"^set\(layer_(\w+) (\d+)\)", (ROOT / "cmake/include_layers.cmake").read_text("utf-8"), re.M)
    if {name for name, _ in layers} != set(FOLDERS):
        raise SystemExit("draw.py: FOLDERS has other folders than cmake/include_layers.cmake")
    found = {}
    for name, layer in layers:
        headers = [f for f in (INCLUDE / name).rglob("*") if f.suffix in (".hpp", ".cuh", ".ipp")]
        found[name] = int(layer), len(headers), set().union(*map(included, headers)) - {name}
    return found


def include_layers():
    found = folders()
    top = max(layer for layer, _, _ in found.values())
    head, left, right, gap = 62, 46, 950, 30

    def row(layer):
        """The folders of a layer, how wide each is drawn, and the lines that say what it includes."""
        names = [name for name, (f, _, _) in found.items() if f == layer]
        width = (right - left - gap * (len(names) - 1)) / len(names)
        lines = {}
        for name in names:
            lines[name] = ["→"]
            for other in [o for o in found if o in found[name][2]] or ["none"]:
                if width_of(f"{lines[name][-1]} {other}", 12) > width - 36:
                    lines[name].append("")
                lines[name][-1] = f"{lines[name][-1]} {other}".strip()
        return names, width, lines

    heights = [52 + 17 * max(map(len, row(layer)[2].values())) for layer in range(top + 1)]
    p = Picture(960, head + sum(heights) + 10 * len(heights) + 24,
                "The include layers of include/distil_xlstm: a folder's headers include those of lower layers only")
    middle = (left + right) / 2
    p.rect(left, 4, right - left, head - 14, "card axis", 8)
    p.text(middle, 28, "distil_xlstm.hpp", "m ink bold", 15)
    left_out = " or ".join(sorted(set(found) - included(INCLUDE / "distil_xlstm.hpp")))
    p.text(middle, 46, "→ all folders" + (f" but {left_out}" if left_out else ""), "m ink2", 12)
    place, y = {}, head
    for layer in range(top, -1, -1):
        height = heights[layer]
        p.text(22, y + height / 2 + 6, str(layer), "m ink3 bold", 17)
        names, width, lines = row(layer)
        for i, name in enumerate(names):
            x = left + i * (width + gap)
            place[name] = x, x + width, y + height / 2
            p.rect(x, y, width, height, "card axis", 8)
            p.text(x + 12, y + 23, name, "fa bold", 16)
            p.text(x + width - 12, y + 23, f"{found[name][1]} headers", "e ink3", 12)
            p.text(x + 12, y + 42, FOLDERS[name], "ink", 12.5, width - 16)
            for k, line in enumerate(lines[name]):
                p.text(x + 12 + 16 * (k > 0), y + 60 + 16 * k, line, "ink2", 12)
        y += height + 10
    for name, (layer, _, others) in found.items():
        for other in sorted(others):
            if found[other][0] >= layer and name < other:
                p.arrow((place[name][1] + 1, place[name][2]), (place[other][0] - 1, place[other][2]), both=True)
    p.text(left, p.height - 10, "→ the folders that its headers include: lower layers only, but for device and op; "
           "the build checks it", "ink3", 13, right - left)
    return p


# The report ---------------------------------------------------------------------------------------------------------

KEPT = ("step", "ce", "kl", "alignment", "grad_norm", "alpha", "beta", "temperature",
        "held_out_ppl", "teacher_ppl", "unigram_ppl")


def reduced(metrics):
    """What report.svg shows of a run's metrics.jsonl, to four digits."""
    lines = []
    for line in metrics.read_text("utf-8").splitlines():
        record = {k: v if k == "step" else float(f"{v:.4g}") for k, v in json.loads(line).items() if k in KEPT}
        lines.append(json.dumps(record, separators=(",", ":")))
    return "\n".join(lines) + "\n"


def smoothed(values, log):
    """As the report does it: a moving mean over 2 % of the run, geometric on a logarithmic axis."""
    values = [math.log(v) for v in values] if log else values
    reach, out = max(2, len(values) // 100), []
    for i in range(len(values)):
        before = min(reach, i)
        window = values[i - before:i + min(before, len(values) - 1 - i) + 1]
        out.append(math.fsum(window) / len(window))
    return [math.exp(v) for v in out] if log else out


def readable(x):
    if x >= 1000:
        return f"{x:,.0f}" if x < 1e6 else f"{x / 1e6:.1f} M"
    return f"{x:.{max(0, 2 - math.floor(math.log10(x)))}f}" if x else "0"


def linear_ticks(low, high, count):
    power = 10 ** math.floor(math.log10((high - low) / count))
    d = next(m * power for m in (1, 2, 2.5, 5, 10) if (high - low) / count <= m * power * (1 + 1e-9))
    first, last = math.floor(low / d + 1e-9), math.ceil(high / d - 1e-9)
    decimals = next(k for k in range(9) if abs(d * 10 ** k - round(d * 10 ** k)) < 1e-6)
    return first * d, last * d, [(k * d, f"{k * d:.{decimals}f}" if k else "0") for k in range(first, last + 1)]


def log_ticks(low, high):
    digits = (1, 2, 5) if high / low < 10 ** 2.5 else (1,)
    every = max(1, math.ceil(math.log10(high / low) / 6))
    pad = (high / low) ** 0.03
    names = {3: "1k", 4: "10k", 5: "100k", 6: "1M", 7: "10M"}
    low, high = low / pad, high * pad
    ticks = [m * 10.0 ** e for e in range(-3, 8) if e % every == 0 for m in digits]
    return low, high, [(v, names.get(round(math.log10(v), 6), f"{v:g}")) for v in ticks if low <= v <= high]


def report():
    run = [json.loads(line) for line in (HERE / "run.jsonl").read_text("utf-8").splitlines()]
    last_step = max(r["step"] for r in run)
    width, height, gap = 312, 224, 12
    p = Picture(960, 2 * height + gap, "The curves of a training run's report")
    references = [(name, run[0][f"{name}_ppl"]) for name in ("teacher", "unigram")]
    charts = (
        ("Cross-entropy", "nats per token", ("ce",), False),
        ("KL(teacher ‖ student)", "nats per token", ("kl",), False),
        ("Alignment", "unweighted", ("alignment",), False),
        ("Held-out perplexity", "log axis", ("held_out_ppl",), True),
        ("Gradient norm", "before clipping, log axis", ("grad_norm",), True),
        ("Schedules", "", ("alpha", "beta", "temperature"), False))
    for place, (title, unit, names, log) in enumerate(charts):
        x0, y0 = place % 3 * (width + gap), place // 3 * (height + gap)
        p.rect(x0 + 0.5, y0 + 0.5, width - 1, height - 1, "card rule", 10)
        p.text(x0 + 14, y0 + 25, title, "ink bold", 14)
        p.text(x0 + width - 14, y0 + 25, unit, "e ink3", 12)
        curves = [[(r["step"], r[name]) for r in run if name in r] for name in names]
        shown = references if names[0] == "held_out_ppl" else []
        values = [v for c in curves for _, v in c] + [v for _, v in shown]
        if log:
            low, high, ticks = log_ticks(min(values), max(values))
        else:
            low, high, ticks = linear_ticks(0 if len(curves) > 1 else min(values), max(values), 4)
        left, right = x0 + 46, x0 + width - (96 if shown or len(curves) > 1 else 16)
        top, bottom = y0 + 44, y0 + height - 42

        def at_x(step):
            return left + step / last_step * (right - left)

        def at_y(v):
            share = math.log(v / low) / math.log(high / low) if log else (v - low) / (high - low)
            return bottom - share * (bottom - top)

        for v, name in ticks:
            p.path([(left, at_y(v)), (right, at_y(v))], "rule")
            p.text(left - 7, at_y(v) + 4, name, "e ink3", 11)
        p.path([(left, bottom), (right, bottom)], "axis")
        for v, name in linear_ticks(0, last_step, 5)[2]:
            if v <= last_step:
                p.path([(at_x(v), bottom), (at_x(v), bottom + 4)], "axis")
                p.text(at_x(v), bottom + 17, name, "m ink3", 11)
        p.text((left + right) / 2, bottom + 33, "step", "m ink3", 11)
        labels = []
        for curve, colour, name in zip(curves, "abc", names):
            line = curve if len(curves) == 1 else curve[::8] + curve[-1:]
            if len(curve) > 200 and len(curves) == 1:
                p.path([(at_x(s), at_y(v)) for s, v in curve], f"raw s{colour}")
                line = list(zip((s for s, _ in curve), smoothed([v for _, v in curve], log)))
            p.path([(at_x(s), at_y(v)) for s, v in line], f"s{colour} w2")
            if len(curve) <= 40:
                for s, v in curve:
                    p.add(f'<circle cx="{number(at_x(s))}" cy="{number(at_y(v))}" r="3" class="f{colour}"/>')
            if shown or len(curves) > 1:
                labels.append([at_y(line[-1][1]), f"student {readable(line[-1][1])}" if shown else name, "ink"])
        for name, v in shown:
            p.path([(left, at_y(v)), (right, at_y(v))], "faint dash")
            labels.append([at_y(v), f"{name} {readable(v)}", "ink3"])
        lowest = top
        for y, name, style in sorted(labels):
            p.text(right + 8, max(y, lowest) + 4, name, style, 11, 90)
            lowest = max(y, lowest) + 15
    return p


def main(arguments):
    if len(arguments) == 2 and arguments[0] == "--run":
        (HERE / "run.jsonl").write_text(reduced(pathlib.Path(arguments[1])), "utf-8")
        return 0
    if arguments not in ([], ["--check"]):
        print("usage: draw.py [--check | --run metrics.jsonl]", file=sys.stderr)
        return 2
    stale = []
    for draw in (method, include_layers, report):
        path, svg = HERE / f"{draw.__name__}.svg", draw().svg()
        if not arguments:
            path.write_text(svg, "utf-8")
        elif not path.exists() or path.read_text("utf-8") != svg:
            stale.append(path.relative_to(ROOT).as_posix())
    if stale:
        print(f"{', '.join(stale)}: not what draw.py makes; run python3 examples/guide/draw.py", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
