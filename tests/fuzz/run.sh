#!/usr/bin/env bash
# run.sh BUILD SECONDS: each fuzz target of a build for so long, two at a time. What it finds lies in BUILD/fuzz/.
set -euo pipefail
build=$(cd "$1" && pwd) seconds=$2
cd "$(dirname "$0")"
mkdir -p "$build/fuzz"
python3 seeds.py "$build/fuzz/corpus"
one() {
  local build=$1 seconds=$2 name=$3 log=$1/fuzz/$3.log
  cd "$build/fuzz"
  mkdir -p "corpus/$name"
  if "$build/bin/$name" -max_total_time="$seconds" -max_len=20000 -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
    -artifact_prefix="$build/fuzz/$name-" "corpus/$name" >"$log" 2>&1; then
    echo "$name: $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") executions"
  else
    tail -40 "$log" >&2
    echo "$name: FAILED, see $log" >&2
    return 1
  fi
}
export -f one
ls fuzz_*.cpp | sed 's/\.cpp$//' | xargs -P 2 -I{} bash -c "one '$build' '$seconds' {}"
