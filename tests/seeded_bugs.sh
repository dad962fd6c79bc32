#!/usr/bin/env bash
# Plants one fault at a time in a copy of the headers and says which tests notice. Run by hand; takes minutes.
#
#   bash tests/seeded_bugs.sh            every fault
#   bash tests/seeded_bugs.sh KL         those whose name holds KL
set -euo pipefail
cd "$(dirname "$0")/.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# name | header | sed script | tests to build
faults=(
  "sLSTM backward: a sign in dn|math/slstm_cell.hpp|s/dnt = dn - dh/dnt = dn + dh/|device/cells"
  "sLSTM: the n = 0 rule dropped|math/slstm_cell.hpp|s/select_positive(n0, max(raw_i, lf), raw_i)/max(raw_i, lf)/|device/cells model/student"
  "sLSTM: weights of input and forget gate swapped|block/slstm.hpp|s/p.fgate = l.scope(\"fgate\"/p.fgate = l.scope(\"igate\"/; s/p.igate = l.scope(\"igate\"/p.igate = l.scope(\"fgate\"/|model/student"
  "mLSTM backward: the normaliser's gradient dropped|op/mlstm/op.hpp|s/dr\[t\] = -along .*;/dr[t] = 0 * along;/|device/cells"
  "mLSTM backward: the stabiliser's share dropped|op/mlstm/op.hpp|s/const T dmu = -along \* epsilon;/const T dmu = 0 * along;/|device/cells"
  "mLSTM: epsilon inside the maximum|op/mlstm/op.hpp|s/over = T(1) \/ (z.n\[t\] + static_cast<T>(shape.epsilon))/over = T(1) \/ math::max(z.n[t], static_cast<T>(shape.epsilon))/|device/cells"
  "mLSTM: a chunk forgets that a document began|op/mlstm/op.hpp|s/const bool carried = start <= 0;/const bool carried = true;/|block/forms"
  "mLSTM: the step reads the state of the document before|op/mlstm/op.hpp|s/const T forget = begins .. m0/const T forget = m0/|block/forms"
  "mLSTM: a mean's normaliser has no gradient|op/mlstm/op.hpp|s/mlstm_norm<T>{r, 1} :/mlstm_norm<T>{r, 0} :/|laws/decoder_layers model/linearised"
  "window: a key too many|op/attention/op.hpp|s/start = t - shape.window + 1/start = t - shape.window/|block/attention model/linearised"
  "window: a ring without the oldest token that is seen|block/attention.hpp|s/t + shape.window < seq.time/t + shape.window < seq.time + 2/|laws/blocks"
  "window: the CPU's ring does not begin anew|op/attention/cpu.hpp|s/std::min(r.count, shape.sinks + shape.window - r.slot)/std::min(r.count, shape.sinks + shape.window + 1 - r.slot)/|block/attention"
  "window: another document's sinks|op/attention/op.hpp|s/const index from = first(b, t), start = t/const index from = shape.sinks > 0 ? -past_length(b) : first(b, t), start = t/|block/attention laws/blocks model/linearised"
  "features backward: the sign of -z|op/feature_map/op.hpp|s/d = d - math::load/d = d + math::load/|laws/decoder_layers model/linearised"
  "hybrid: gates in another order|block/hybrid_attention.hpp|s/constexpr index input_gate = 0, forget_gate = 1/constexpr index input_gate = 1, forget_gate = 0/|model/linearised"
  "hybrid: the memory's share is the window's|op/gated_mix/op.hpp|s/return w + o \* (r - w);/return r + o * (w - r);/|laws/decoder_layers model/linearised"
  "mixers: the error is not in the teacher's length|distil/mixer_trainer.hpp|s/norms.row(r)\[0\] \* totals\[1\]/norms.row(r)[0]/|model/linearised"
  "mixers: gates' biases learn as slowly as matrices|distil/linearised_rates.hpp|s/? gate_bias : 1/? 1 : 1/|model/linearised"
  "calibration: sinks count as far away|op/attention/cpu.hpp|s/a.first(sequence, t) + r.sinks/a.first(sequence, t)/|model/linearised"
  "linearised: the head stays the teacher's|model/model.hpp|s/gradients.views().head};/matrix_view<T>{}};/|model/linearised"
  "embedding backward: the first token left out|block/embedding.hpp|s/for (index r = 0; r < dx.rows/for (index r = 1; r < dx.rows/|model/linearised"
  "norm: epsilon outside the root|op/norm/op.hpp|s/sqrt(a.total \/ static_cast<T>(n.width) + n.epsilon)/(sqrt(a.total \/ static_cast<T>(n.width)) + n.epsilon)/|model/student"
  "norm: the unbiased variance|op/norm/op.hpp|s/sqrt(a.total \/ static_cast<T>(n.width) + n.epsilon)/sqrt(a.total \/ static_cast<T>(n.width - 1) + n.epsilon)/|model/student"
  "norm: short rows in float|op/norm/op.hpp|s/if (n.width <= detail::narrow_norm_input_gradient<T>::widest)/if (n.width <= 0)/|model/student"
  "norm backward: the mean of short rows kept|op/norm/op.hpp|s/g\[c\] - mean_g - /g[c] - /|laws/blocks model/student"
  "rotary: llama3's frequencies between are slowed wholly|block/rotary.hpp|s/1 \/ ((1 - s) \/ factor + s)/factor/|model/llama"
  "attention: what has no positions is rotated|block/attention.hpp|s/if (!rotates) return;//|model/llama laws/blocks"
  "attention: a norm of the heads is passed by on the way back|block/attention.hpp|s/const_view<T>(heads_of(dk)), heads_of(dk));/const_view<T>(heads_of(dq)), heads_of(dq));/|laws/blocks"
  "SmolLM3: every layer has positions|model/load_llama.ipp|s/i % 4 != 0/true/; s/(i + 1) % step != 0/true/|model/llama"
  "GGUF: the rows of q and k stay in pairs|model/load_llama.hpp|s/\"load_llama\").paired;/\"load_llama\").paired \&\& false;/|model/llama"
  "convolution: taps in the other order|op/conv/op.hpp|s/taps\[j \* width + i\] = weight\[i \* window + j\]/taps[j * width + i] = weight[i * window + window - 1 - j]/; s/a.dweight + j, window/a.dweight + window - 1 - j, window/|model/student"
  "convolution backward: a tap off by one|op/conv/op.hpp|s/index j = in.window - 1, t = s;/index j = in.window - 2, t = s;/|laws/blocks"
  "convolution: a document's past is not cut off|op/conv/op.hpp|s/back = start < 0 ? window - 1 : t - start/back = start < -1 ? index(window) : window - 1/|laws/blocks"
  "Delta rule: a step too late|schedule/delta.hpp|s/n > 0 ? n - 1 : 0);/n);/|schedule/schedule"
  "warm-up: a step too late|schedule/learning_rate.hpp|s/zero_start ? 0 : 1/zero_start ? 0 : 0/|schedule/schedule"
  "AdamW: bias correction off by one|optim/adamw.hpp|s/t = static_cast<double>(step);/t = static_cast<double>(step + 1);/|optim/optim"
  "AdamW: decay before the update, scaled by beta|optim/adamw.hpp|s/1 - lr \* h.weight_decay/1 - h.beta1 * lr * h.weight_decay/|optim/optim"
  "KL: the factor T squared missing in the value|loss/term_list.hpp|s/total += coefficient<K>() \* value_of<K>/total += weights_[K] * value_of<K>/|laws/terms"
  "KL: missing in value and gradient|loss/tempered.hpp|s/return temperature \* temperature/return T(1)/|laws/terms loss/term distil/steps"
  "KL: of two temperatures, one log-sum-exp|loss/fold.hpp|s/get<I>(other.inputs).parameter/get<I>(inputs).parameter/|loss/term"
  "KL over the k largest: the k-th itself is left out|loss/top_k_kl.hpp|s/V(kth) - teacher/teacher - V(kth)/|loss/term"
  "divergence of a text: what is not scored counts, too|distil/score_divergence.hpp|s/w.scored, T(1), {})/nullptr, T(1), {})/|distil/score_divergence"
  "windows of a text: a document's first token is scored|distil/perplexity.hpp|s/inside \&\& !text.starts_at(first + t + 1)/inside/|distil/score_divergence"
  "divergence of a text: what was kept is another part's|distil/kept_states.hpp|s/parts\[part\].data()/parts[0].data()/|distil/score_divergence"
  "ranks: a batch of windows is several ranks'|distil/perplexity.hpp|s/number % ranks.size() == ranks.rank()/number % ranks.size() <= ranks.rank()/|distil/shared_scores"
  "ranks: continuations of rank 0 alone|distil/evaluate.hpp|s/ranks.sum({}, sums.data(), std::ssize(sums))/ranks.broadcast({}, sums.data(), std::ssize(sums) * 8, 0)/|distil/shared_scores"
  "ranks: a cache has what rank 0 was given before|distil/teacher_cache.hpp|s/if (rank > 0) ranks.broadcast/if (rank > 1) ranks.broadcast/|distil/shared_scores"
  "needle: asked for too soon|distil/needle.ipp|s/room - needle_text::least_before - needle_text::least_between/room - needle_text::least_before/|distil/needle"
  "needle: the digit before is scored, too|distil/evaluate.hpp|s/for (index t = x.context; t < std::ssize/for (index t = x.context - 1; t < std::ssize/|distil/needle"
  "choice: the last group of tokens is never reached|op/sampling/op.hpp|s/walk_sums(group, 0, groups, left)/walk_sums(group, 0, groups - 1, left)/|model/decoder"
  "batch: who moves up has the memory of who left|model/decoder.hpp|s/if (r != last) {/if (false) {/|model/decoder"
  "batch: products of as many rows as there are texts|model/decoder.hpp|s/std::max(n, few + 1)/n/|model/decoder"
  "batch: what was read ahead is left behind|model/decoder.hpp|s/state_.copy(std::ssize(present_), state_, ready_.front().row);//|model/decoder"
  "saved text: a model of another rotary base is the same|model/model.hpp|s/; }) config_.identify(hash);/; }) (void)0;/|model/decoder"
  "batch: a prompt counts for nothing|model/decoder.hpp|s/state_.copy(t.row, reading_, lane);/state_.reset(t.row);/|model/decoder"
  "JSON: a whole number beyond 64 bits is 0|io/json.ipp|s/r.ec == std::errc() \&\& r.ptr == last/r.ptr == last/|io/json"
)

cxx=${CXX:-g++}
flags="-std=c++20 -O1 -march=native -mtune=generic -w -DBOOST_TEST_DYN_LINK -DDISTIL_XLSTM_TEST_DATA=\"$PWD/tests\""
libraries="-lboost_unit_test_framework -lpcre2-8 -lutf8proc -lz -lcrypto -lpthread"
$cxx $flags -isystem /usr/include/eigen3 -c tests/main.cpp -o "$scratch/main.o"
missed=0
echo "| fault | noticed by |"
echo "|---|---|"
for fault in "${faults[@]}"; do
  IFS='|' read -r name header script tests <<<"$fault"
  [[ $name == *${1:-}* ]] || continue
  rm -rf "$scratch/include"
  cp -r include "$scratch/include"
  file=$scratch/include/distil_xlstm/$header
  sed -i "$script" "$file"
  if cmp -s "$file" "include/distil_xlstm/$header"; then
    echo "seeded_bugs.sh: '$name' changes nothing in $header any more" >&2
    exit 2
  fi
  noticed=
  for test in $tests; do
    if ! nice $cxx $flags -I "$scratch/include" -isystem /usr/include/eigen3 "tests/$test.test.cpp" "$scratch/main.o" \
      -o "$scratch/test" $libraries; then
      echo "seeded_bugs.sh: '$name' does not compile" >&2
      exit 2
    fi
    if ! timeout 120 "$scratch/test" --log_level=error >"$scratch/log" 2>&1; then
      cases=$(sed -n 's/.*error: in "\([^"]*\)".*/\1/p' "$scratch/log" | sort -u | paste -sd ' ' | sed 's/ /, /g')
      noticed+="${noticed:+; }${test/\//.}: ${cases:-crash}"
    fi
  done
  echo "| $name | ${noticed:-**nothing**} |"
  [ -n "$noticed" ] || missed=$((missed + 1))
done
[ $missed -eq 0 ] || { echo "seeded_bugs.sh: $missed faults went unnoticed" >&2; exit 1; }
