#!/usr/bin/env bash
# On a machine with an NVIDIA GPU: builds what runs on it, runs every test of it, looks over the kernels' memory
# accesses, and prints what the card does beside what it could do.
#
#   bash tests/cuda/run.sh
#   bash tests/cuda/run.sh --built    the same with what build/cuda holds already: for a machine without a compiler
set -euo pipefail
cd "$(dirname "$0")/../.."
built=
case ${1-} in
  '') ;;
  --built) built=yes ;;
  *) echo "run.sh: unknown option '$1' (--built)" >&2; exit 2 ;;
esac
nvcc=nvcc
if [ -z "$built" ]; then
  bash cmake/install_packages.sh g++ cmake ninja-build pkg-config libeigen3-dev nlohmann-json3-dev libpcre2-dev \
    libutf8proc-dev zlib1g-dev libssl-dev libboost-test-dev libboost-program-options-dev
  nvcc=$(bash cmake/install_cuda.sh build/cuda-toolkit)
  cmake --preset cuda "-DCMAKE_CUDA_COMPILER=$nvcc" -DCMAKE_CUDA_ARCHITECTURES=native \
    "-DDISTIL_XLSTM_TEST_FILTER=^cuda[.]" -DDISTIL_XLSTM_INSTALL=OFF
  cmake --build --preset cuda
fi
# What builds on the least comes first: if one fails, what comes after it is not worth reading.
for step in launch verbs products few_rows operand_copies map norm optim slstm mlstm attention features head layers \
            layer_steps golden teacher steps whole batch nccl compiled_once; do
  test=build/cuda/bin/test.cuda.$step
  [ -x "$test" ] || continue
  echo "== $step"
  "$test" || { status=$?; [ $status = 77 ] && exit 77; echo "stopped at $step" >&2; exit $status; }
done
sanitizer=$(command -v compute-sanitizer || echo "$(dirname "$nvcc")/compute-sanitizer")
if [ -x "$sanitizer" ]; then
  # A case of each kind of kernel.
  looks=('verbs:gradients_of_an_embedding*' norm:norms_of_groups optim:a_recorded_step head:recorded
         'slstm:step_by_step*' mlstm:many_documents 'mlstm:no_state_enters*' 'features:runs_are_equal*' 'features:several_maps*'
         'attention:rows_may_lie_anywhere*' teacher:nothing_even layers:gradients_of_the_inputs
         'batch:tokens_are_chosen*' layer_steps:a_step_of_an_slstm_layer layer_steps:a_step_of_an_mlstm_layer
         'teacher:single_tokens_behind*'
         launch:kernels_of_all_kinds_wait_for_one_another)
  for tool in memcheck racecheck; do
    echo "== $tool"
    for look in "${looks[@]}"; do
      said=$("$sanitizer" --tool $tool "build/cuda/bin/test.cuda.${look%:*}" --run_test="${look#*:}" 2>&1) || true
      summary=$(grep -o "SUMMARY: .*" <<<"$said" || true)
      echo "$look $summary"
      # Racecheck warns of what a cluster's blocks send one another: it does not know the barriers that they wait at.
      case $said in
        *"No errors detected"*"SUMMARY: 0 errors"* | *"No errors detected"*"SUMMARY: "*"(0 errors"*) ;;
        *) echo "$said" >&2; exit 1 ;;
      esac
    done
  done
fi
build/cuda/bin/bench.cuda.table
