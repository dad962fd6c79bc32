// What the CUDA device does on the card at hand, beside the card's own limits measured in the same run: one
// table, medians. Random data; bfloat16 products unless told otherwise.
//
//   bench.cuda.table                                 everything
//   bench.cuda.table limits mlstm slstm step decode  some of it; step64, step32, qwen: one of the steps;
//                                                    teacher: a transformer's texts, token by token;
//                                                    linearised: parts of a linearised transformer's layer, and
//                                                    a step of each stage
//   bench.cuda.table fp32 step64                     the same in float
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <type_traits>
#include <vector>

#include <cuda_profiler_api.h>

#include <distil_xlstm/block/embedding.hpp>
#include <distil_xlstm/device/captured_graph.hpp>
#include <distil_xlstm/device/cuda.cuh>
#include <distil_xlstm/distil/linearised_rates.hpp>
#include <distil_xlstm/distil/mixer_trainer.hpp>
#include <distil_xlstm/distil/token_text.hpp>
#include <distil_xlstm/distil/trainer.hpp>
#include <distil_xlstm/loss/kl.hpp>
#include <distil_xlstm/model/decoder.hpp>
#include <distil_xlstm/model/load_linearised.hpp>
#include <distil_xlstm/model/load_llama.hpp>
#include <distil_xlstm/model/random_llama.hpp>
#include <distil_xlstm/model/xlstm.hpp>
#include <distil_xlstm/op/sampling/op.hpp>

#include "../distillation_step.hpp"
#include "../random_decoder.hpp"
#include "../random_teacher.hpp"

namespace distil_xlstm {
namespace {

using device::cuda_base;
namespace fs = std::filesystem;

/// Median milliseconds of a call, by the device's own clock.
double milliseconds(cuda_base& d, const std::function<void()>& call, int repeats = 30) {
  for (int i = 0; i < 3; ++i) call();
  std::vector<cudaEvent_t> marks(static_cast<std::size_t>(repeats) + 1);
  for (auto& m : marks) device::detail::check(cudaEventCreate(&m), "an event");
  cudaEventRecord(marks[0], d.stream());
  for (std::size_t i = 1; i < marks.size(); ++i) {
    call();
    cudaEventRecord(marks[i], d.stream());
  }
  d.wait();
  std::vector<double> times;
  for (std::size_t i = 1; i < marks.size(); ++i) {
    float ms = 0;
    device::detail::check(cudaEventElapsedTime(&ms, marks[i - 1], marks[i]), "timing");
    times.push_back(static_cast<double>(ms));
  }
  for (auto& m : marks) cudaEventDestroy(m);
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

/// Random numbers on the device: `mean` + `scale` * normal.
template <class T>
class random_numbers : public buffer<T, cuda_base> {
 public:
  random_numbers(cuda_base& d, index n, double scale = 1, double mean = 0) : buffer<T, cuda_base>(d, n) {
    static rng random(7);
    // A million different numbers, again and again.
    std::vector<T> some(static_cast<std::size_t>(std::min<index>(n, (1 << 20) + 7)));
    for (auto& x : some) x = T(static_cast<float>(mean + scale * random.normal()));
    for (index at = 0; at < n; at += std::ssize(some))
      d.upload(this->data() + at, some.data(),
               std::min<index>(std::ssize(some), n - at) * static_cast<index>(sizeof(T)));
  }
  matrix_view<T> matrix(index rows) const { return {this->data(), rows, this->size() / rows}; }
};
using random_buffer = random_numbers<float>;

double copy_rate = 0, product_rate = 0;  // bytes/ms, operations/ms

void limits(device::basic_cuda<bf16_mixed>& d) {
  const index bytes = index{4} << 30;
  const buffer<char, cuda_base> a(d, bytes), b(d, bytes);
  const double copy = milliseconds(d, [&] { d.copy(a.data(), b.data(), bytes); });
  copy_rate = 2.0 * static_cast<double>(bytes) / copy;
  const index n = 8192;
  const random_buffer x(d, n * n);
  std::vector<bf16> half(static_cast<std::size_t>(n * n));
  for (std::size_t i = 0; i < half.size(); ++i) half[i] = bf16(static_cast<float>(i % 1009) / 500 - 1);
  buffer<bf16, cuda_base> y(d, n * n);
  d.upload(y.data(), half.data(), n * n * 2);
  const frozen_matrix m{y.data(), dtype::bf16, n, n};
  const buffer<float, cuda_base> z(d, n * n);
  const double product =
      milliseconds(d, [&] { gemm(d, m, transposed(m), matrix_view<float>(z.data(), n, n)); });
  product_rate = 2.0 * 8192.0 * 8192.0 * 8192.0 / product;
  std::printf("| limit: copy, read + written | %.3f ms | %.2f TB/s |\n", copy, copy_rate / 1e9);
  std::printf("| limit: bf16 product 8192^3 | %.3f ms | %.0f TFLOP/s |\n", product, product_rate / 1e9);
}
/// A row: what it took, what the card's limits would take and how much of the time that is, what the best peer took on
/// an H100.
void row(const std::string& what, double ms, double bytes, double operations, const char* peer) {
  char floor[96] = "";
  if (copy_rate > 0) {
    const double moving = bytes / copy_rate, multiplying = operations / product_rate;
    std::snprintf(floor, sizeof floor, "%.3f ms (bytes), %.3f ms (products), %.0f %%", moving, multiplying,
                  100 * std::max(moving, multiplying) / ms);
  }
  std::printf("| %s | %.3f ms | limits: %s | %s |\n", what.c_str(), ms, floor, peer);
  std::fflush(stdout);
}

/// q, k, v and the gradients dh, dq and dk stored as Operand.
template <class Operand, class D>
void mlstm_cell(D& d, index batch, index heads, index time, index query, index value, const char* peer,
                mlstm_normaliser normaliser = mlstm_normaliser::at_least_one, index value_group = 1) {
  const index rows = batch * time;
  mlstm_shape shape{heads, query, value};
  shape.normaliser = normaliser, shape.value_group = value_group;
  const double mean = normaliser == mlstm_normaliser::sum ? 5 : 0;  // of which q and k are positive
  const random_numbers<Operand> q(d, rows * heads * query, 1, mean), k(d, rows * heads * query, 1, mean),
      v(d, rows * shape.value_heads() * value), dh(d, rows * heads * value), dq(d, q.size()), dk(d, k.size());
  const random_buffer i(d, rows * heads), f(d, rows * heads, 1, 3), h(d, dh.size()), dv(d, v.size()),
      di(d, i.size()), df(d, f.size());
  const index kept = batch * heads * shape.chunks(time) * shape.chunk_state_size();
  const buffer<float, cuda_base> c(d, batch * heads * query * value), n(d, batch * heads * query),
      m(d, batch * heads), tape(d, kept);
  const mlstm_state<float> state{
      {c.data(), heads * query * value}, {n.data(), heads * query}, {m.data(), heads}};
  const mlstm_arguments<float, Operand> forward{{batch, time},  shape,          q.matrix(rows), k.matrix(rows),
                                                v.matrix(rows), i.matrix(rows), f.matrix(rows), h.matrix(rows),
                                                state,          tape.data()};
  mlstm_backward_arguments<float, Operand> backward{
      {batch, time},   shape,           q.matrix(rows),  k.matrix(rows),  v.matrix(rows),
      i.matrix(rows),  f.matrix(rows),  h.matrix(rows),  dh.matrix(rows), tape.data(),
      dq.matrix(rows), dk.matrix(rows), dv.matrix(rows), di.matrix(rows), df.matrix(rows)};
  const std::string shape_text = "mLSTM " + std::to_string(batch) + "," + std::to_string(heads) + "," +
                                 std::to_string(time) + "," + std::to_string(query) + "/" +
                                 std::to_string(value);
  // Each of q k v h once; C is not needed in memory. Operations of the chunkwise form, chunk 64.
  const double numbers = static_cast<double>(rows * heads);
  const double in = static_cast<double>(2 * query) +
                    static_cast<double>(value) / static_cast<double>(value_group),
               out = static_cast<double>(value), both = static_cast<double>(query + value),
               operand = sizeof(Operand);
  const double forward_bytes = numbers * (operand * in + 4 * out), of_queries = static_cast<double>(2 * query),
               backward_bytes = numbers * (operand * (in + of_queries + out) + 4 * (in - of_queries) + 4 * out),
               forward_operations = numbers * (64 * both + 4 * static_cast<double>(query * value));
  row(shape_text + " forward", milliseconds(d, [&] { mlstm_forward(d, forward); }), forward_bytes,
      forward_operations, "");
  row(shape_text + " forward + backward",
      milliseconds(d,
                   [&] {
                     mlstm_forward(d, forward);
                     mlstm_backward(d, backward);
                   }),
      forward_bytes + backward_bytes, 3 * forward_operations, peer);
}

template <class D>
void slstm_cell(D& d, index batch, index time, index heads, index head, const char* forward_peer,
                const char* peer) {
  const index rows = batch * time, width = heads * head;
  const random_buffer r(d, heads * 4 * head * head, 0.05), bias(d, 4 * width), input(d, rows * 4 * width),
      dh(d, rows * width);
  const buffer<float, cuda_base> raw(d, rows * 4 * width), states(d, rows * 4 * width),
      initial(d, batch * 4 * width), state(d, batch * 4 * width), carry(d, batch * 3 * width);
  const matrix_view<float> raw_view(raw.data(), rows, 4 * width), states_view(states.data(), rows, 4 * width);
  const slstm_arguments<float> forward{{batch, time}, heads,          head,
                                       r.data(),      bias.data(),    raw_view,
                                       states_view,   initial.data(), {state.data(), 4 * width}};
  const slstm_backward_arguments<float> backward{
      {batch, time},  heads,          head, r.data(), raw_view, matrix_view<const float>(states_view),
      initial.data(), dh.matrix(rows)};
  const std::string shape_text = "sLSTM " + std::to_string(batch) + "," + std::to_string(time) + "," +
                                 std::to_string(heads) + "," + std::to_string(head);
  const double numbers = static_cast<double>(rows * width);
  const double operations = 8 * numbers * static_cast<double>(head);
  d.copy(raw.data(), input.data(), raw.size() * 4);
  row(shape_text + " forward", milliseconds(d, [&] { slstm_forward(d, forward); }), 4 * numbers * 12,
      operations, forward_peer);
  row(shape_text + " forward + backward",
      milliseconds(d,
                   [&] {
                     slstm_forward(d, forward);
                     slstm_backward(d, backward, carry.data());
                   }),
      4 * numbers * 27, 2 * operations, peer);
}

/// Attention over a window and sinks, a key and value of each `heads / kv_heads` heads.
template <class D>
void windowed_attention(D& d, index batch, index time, const attention_shape& shape) {
  const index rows = batch * time, all = shape.heads * shape.width, kv = shape.kv_heads * shape.width;
  const random_buffer q(d, rows * all), k(d, rows * kv), v(d, rows * kv), dy(d, rows * all);
  const buffer<float, cuda_base> memory(d, rows * (2 * all + 2 * kv));
  const matrix_view<float> y(memory.data(), rows, all), dq(y.data + y.size(), rows, all),
      dk(dq.data + dq.size(), rows, kv), dv(dk.data + dk.size(), rows, kv);
  const attention_arguments<float> forward{
      {batch, time}, shape, q.matrix(rows), k.matrix(rows), v.matrix(rows), {}, y};
  const attention_backward_arguments<float> backward{forward, dy.matrix(rows), dq, dk, dv};
  const std::string what = "attention " + std::to_string(batch) + "," + std::to_string(time) + "," +
                           std::to_string(shape.heads) + "/" + std::to_string(shape.kv_heads) + "," +
                           std::to_string(shape.width) + ", window " + std::to_string(shape.window) + " + " +
                           std::to_string(shape.sinks);
  const double bytes = 4 * static_cast<double>(rows * 2 * (all + kv)),
               operations = 4 * static_cast<double>(rows * all * (shape.window + shape.sinks));
  row(what + " forward", milliseconds(d, [&] { attention_forward(d, forward); }), bytes, operations, "");
  row(what + " forward + backward",
      milliseconds(d,
                   [&] {
                     attention_forward(d, forward);
                     attention_backward(d, backward);
                   }),
      bytes + 4 * static_cast<double>(rows * (4 * all + 4 * kv)), 3.5 * operations, "");
}
/// Softmax features of both signs, stored as Operand.
template <class Operand, class D>
void features(D& d, index rows, const feature_map_shape& shape) {
  const index in = shape.inputs * shape.width, out = shape.heads * shape.size();
  const random_buffer w(d, shape.heads * shape.width * shape.features, 0.1), x(d, rows * in);
  const random_numbers<Operand> dphi(d, rows * out);
  const buffer<Operand, cuda_base> phi(d, rows * out);
  const buffer<float, cuda_base> dx(d, rows * in), dw(d, w.size());
  const feature_map_arguments<float, Operand> forward{shape, w.data(), x.matrix(rows),
                                                      matrix_view<Operand>(phi.data(), rows, out)};
  const feature_map_backward_arguments<float, Operand> backward{
      forward, dphi.matrix(rows), matrix_view<float>(dx.data(), rows, in), 1, dw.data()};
  const std::string what = "features " + std::to_string(rows) + "," + std::to_string(shape.heads) + "/" +
                           std::to_string(shape.inputs) + "," + std::to_string(shape.width) + "," +
                           std::to_string(shape.features);
  const double operand = sizeof(Operand), inputs = static_cast<double>(rows * in),
               outputs = static_cast<double>(rows * out);
  const double operations = 2 * static_cast<double>(rows * shape.heads * shape.width * shape.features);
  row(what + " forward", milliseconds(d, [&] { feature_map_forward(d, forward); }),
      4 * inputs + operand * outputs, operations, "");
  row(what + " backward", milliseconds(d, [&] { feature_map_backward(d, backward); }),
      12 * inputs + operand * outputs, 3 * operations, "");
}
/// The gradient of a table, of ids of which the small ones come often, as a text's do.
template <class D>
void embedding(D& d, index rows, index width, index vocabulary) {
  const random_buffer dx(d, rows * width), table(d, vocabulary * width);
  rng random(3);
  std::vector<std::int32_t> host;
  for (index r = 0; r < rows; ++r) {
    const double u = random.uniform();
    host.push_back(static_cast<std::int32_t>(u * u * u * static_cast<double>(vocabulary)));
  }
  const buffer<std::int32_t, cuda_base> ids(d, rows);
  d.upload(ids.data(), host.data(), rows * 4);
  const index different = static_cast<index>(std::set<std::int32_t>(host.begin(), host.end()).size());
  row("embedding " + std::to_string(rows) + "," + std::to_string(width) + "," + std::to_string(vocabulary) +
          " backward",
      milliseconds(d, [&] { embed_backward(d, ids.data(), dx.matrix(rows), table.matrix(vocabulary)); }),
      4 * static_cast<double>((rows + 2 * different) * width), 0, "");
}

cuda_base* timed = nullptr;
double now() {
  timed->wait();
  timespec t{};
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

/// Twelve steps, and what parts of them take. `free_before` is the card's memory before anything was made.
template <class D, class Trainer>
void time_steps(D& d, const std::string& name, Trainer& run, std::size_t free_before, const char* peer) {
  std::size_t free_after = 0, total = 0;
  timed = &d;
  std::vector<double> steps;
  for (int i = 0; i < 12; ++i) {
    const double begin = now();
    run.step();
    steps.push_back(now() - begin);
  }
  std::sort(steps.begin(), steps.end());
  cudaMemGetInfo(&free_after, &total);
  const double seconds = steps[steps.size() / 2];
  const auto& o = run.options();
  std::printf("| step %s %ld x %ld | %.1f ms | %.0f tokens/s | %.1f GiB | %s |\n", name.c_str(),
              static_cast<long>(o.batch), static_cast<long>(o.length), 1e3 * seconds,
              static_cast<double>(o.batch * o.length) / seconds,
              static_cast<double>(free_before - free_after) / 1073741824.0, peer);
  cudaProfilerStart();  // ncu --profile-from-start off sees this step
  run.step();
  cudaProfilerStop();
  run.timer(now);
  for (int i = 0; i < 3; ++i) run.step();
  const step_times& t = run.times();
  std::printf(
      "|   of it, ms | teacher %.1f | forward %.1f | objective %.1f | backward %.1f | optimiser %.2f |\n",
      1e3 * t.teacher / 3, 1e3 * t.forward / 3, 1e3 * t.objective / 3, 1e3 * t.backward / 3,
      1e3 * t.optimiser / 3);
  std::fflush(stdout);
}

std::size_t free_memory() {
  std::size_t free = 0, total = 0;
  cudaMemGetInfo(&free, &total);
  return free;
}

template <class D>
void step(D& d, const char* name, const fs::path& teacher_folder, index batch, index length, const char* peer) {
  const std::size_t free_before = free_memory();
  const auto teacher = load_llama<float>(d, teacher_folder);
  distillation_step training(d, teacher, batch, length);
  time_steps(d, name, training.run, free_before, peer);
}

/// Both stages of linearisation, five of SmolLM2's layers keeping their attention.
template <class D>
void linearised_steps(D& d, const fs::path& teacher_folder) {
  const std::size_t free_before = free_memory();
  const auto teacher = load_llama<float>(d, teacher_folder);
  linearised_config c;
  c.mixers.assign(static_cast<std::size_t>(teacher.config().layers), mixer_kind::hybrid);
  for (const std::size_t i : {18, 8, 23, 7, 17}) c.mixers[i] = mixer_kind::attention;
  auto student = linearise<float>(d, teacher_folder, c, 1);
  rng random(2);
  token_text text;
  for (index i = 0; i <= 64 * 512; ++i)
    text.ids.push_back(
        static_cast<std::int32_t>(random.below(static_cast<std::uint64_t>(teacher.vocabulary()))));
  const token_windows windows(text, 512);
  training_options o;
  o.batch = 32, o.length = 512, o.total_steps = 100;
  {
    o.rate_of = alignment_rates{&student.config()};
    mixer_trainer align(d, student, windows, teacher, o);
    time_steps(d, "linearise, mixers,", align, free_before, "peer 113k tokens/s");
  }
  o.rate_of = distillation_rates{};
  live_teacher source(teacher);
  trainer distil(d, student, windows, source, loss::kl(1.0), o);
  time_steps(d, "linearise, end to end,", distil, free_before, "peer 108k tokens/s, 28.6 GiB");
}

/// Milliseconds in which the card reads the weights.
template <class D>
double limit(const random_decoder<D>& model) {
  const double bytes = 2.0 * static_cast<double>(model.vocabulary * model.width) +
                       4.0 * static_cast<double>(model.student.weights().size());
  return copy_rate > 0 ? bytes / copy_rate : 0;
}

/// `batch` sequences, a token each: embedding, stack, head, choice.
template <class D>
void decode(D& d, const random_decoder<D>& model, index batch, const char* peer) {
  const auto& student = model.student;
  const index vocabulary = model.vocabulary, width = model.width;
  const auto state = student.make_state(d, batch);
  const buffer<float, cuda_base> memory(d, batch * (width + vocabulary));
  const buffer<std::int32_t, cuda_base> ids(d, batch);
  const matrix_view<float> hidden(memory.data(), batch, width),
      logits(hidden.data + hidden.size(), batch, vocabulary);
  captured_graph<D> step;
  const double ms = milliseconds(
      d,
      [&] {
        step(d, ids.data(), [&] {
          student.forward_unchecked(d, {batch, 1}, ids.data(), state, hidden);
          gemm(d, matrix_view<const float>(hidden), transposed(student.head()), logits);
          choose_tokens<D, float>(d, logits, nullptr, nullptr, ids.data());
        });
      },
      200);
  std::printf("| decode, batch %ld | %.3f ms | %.0f tokens/s | limit %.3f ms (bytes) | %s |\n",
              static_cast<long>(batch), ms, 1e3 * static_cast<double>(batch) / ms, limit(model), peer);
  std::fflush(stdout);
}

/// Texts of 32 to 256 tokens after prompts of 8 to 64, each in the place of one that is over; only tokens that
/// were drawn count.
template <class D>
void ragged(D& d, const random_decoder<D>& model, const char* name, decoder_options options, sampling how,
            const char* peer) {
  decoder<xlstm<float, D>> batch(d, model.student, options);
  using handle = typename decltype(batch)::handle;
  rng random(6);
  const auto between = [&](index low, index high) {
    return low + static_cast<index>(random.below(static_cast<std::uint64_t>(high - low + 1)));
  };
  std::map<handle, index> left;
  std::vector<std::int32_t> prompt;
  const auto join = [&] {
    prompt.resize(static_cast<std::size_t>(between(8, 64)));
    for (auto& id : prompt) id = static_cast<std::int32_t>(between(0, model.vocabulary - 1));
    ++how.seed;
    left[batch.join(prompt, how)] = between(32, 256);
  };
  while (batch.free() > 0) join();
  index joined = 0;
  const auto steps = [&](int n) {
    index drawn = 0;
    for (int i = 0; i < n; ++i)
      drawn += batch.step([&](handle text, std::int32_t) {
        if (--left.at(text) > 0) return true;
        left.erase(text);
        batch.leave(text);
        join(), ++joined;
        return false;
      });
    return drawn;
  };
  steps(300);
  joined = 0;
  timed = &d;
  std::vector<double> rates;
  const int each = 300;
  double seconds = 0, drawn = 0;
  for (int i = 0; i < 5; ++i) {
    const double begin = now(), n = static_cast<double>(steps(each)), took = now() - begin;
    rates.push_back(n / took), seconds += took, drawn += n;
  }
  std::sort(rates.begin(), rates.end());
  std::printf(
      "| decode, ragged, capacity %ld, %s | %.3f ms | %.0f tokens/s | %.1f texts, %.2f joined a step | %s |\n",
      static_cast<long>(options.capacity), name, 1e3 * seconds / (5 * each), rates[rates.size() / 2],
      drawn / (5 * each), static_cast<double>(joined) / (5 * each), peer);
  std::fflush(stdout);
}

/// `texts` texts of a transformer, each from a prompt of 8 tokens, step by step.
template <class D>
void teacher_decode(D& d, const llama<float, D>& teacher, index texts, const char* peer) {
  decoder<llama<float, D>> batch(d, teacher, {.capacity = texts, .context = 256});
  std::vector<std::int32_t> prompt(8);
  rng random(7);
  for (index i = 0; i < texts; ++i) {
    for (auto& id : prompt) id = static_cast<std::int32_t>(random.below(49152));
    batch.join(prompt, {.temperature = 1, .seed = static_cast<std::uint64_t>(i)});
  }
  const auto steps = [&](int n) {
    index drawn = 0;
    while (n-- > 0) drawn += batch.step([](auto, std::int32_t) { return true; });
    return drawn;
  };
  index drawn = 0;
  for (int i = 0; drawn < texts && i < 4000; ++i) drawn = steps(1);  // until all have been read
  std::vector<double> rates;
  for (int i = 0; i < 5; ++i) {
    const double begin = now(), n = static_cast<double>(steps(25));
    rates.push_back(n / (now() - begin));
  }
  std::sort(rates.begin(), rates.end());
  std::printf("| teacher decodes, batch %ld | %.3f ms | %.0f tokens/s | | %s |\n", static_cast<long>(texts),
              1e3 * static_cast<double>(texts) / rates[2], rates[2], peer);
  std::fflush(stdout);
}

/// The parts that were asked for; none: all.
template <Precision P>
void table(const std::set<std::string>& asked) {
  const auto wanted = [&](const char* what) { return asked.empty() || asked.count(what) > 0; };
  using D = device::basic_cuda<P>;
  D d;
  std::printf("| %s, %d multiprocessors, %s | | |\n|---|---|---|\n", d.name().c_str(), d.multiprocessors(),
              std::is_same_v<P, fp32> ? "float" : "bfloat16 products");
  if (wanted("limits")) {
    // On the table's own device: after another stream has come and gone, graphs of small kernels replay slower.
    if constexpr (std::is_same_v<P, bf16_mixed>) {
      limits(d);
    } else {
      device::basic_cuda<bf16_mixed> rounding;
      limits(rounding);
    }
  }
  if (wanted("mlstm")) {
    mlstm_cell<float>(d, 16, 4, 512, 288, 288, "peer 0.873");
    mlstm_cell<float>(d, 16, 4, 2048, 288, 288, "peer 3.26");
    mlstm_cell<float>(d, 8, 8, 8192, 256, 256, "peer 7.32");
    mlstm_cell<float>(d, 2, 8, 8192, 256, 512, "peer 3.43");
  }
  if (wanted("linearised")) {
    windowed_attention(d, 32, 512, {9, 3, 64, 64, 4});
    using operand = operand_t<D, float>;
    mlstm_cell<operand>(d, 32, 9, 512, 128, 64, "", mlstm_normaliser::sum, 3);
    features<operand>(d, 32 * 512, {9, 9, 64, 64});
    features<operand>(d, 32 * 512, {9, 3, 64, 64});
    embedding(d, 32 * 512, 576, 49152);
  }
  if (wanted("slstm")) {
    slstm_cell(d, 16, 1024, 4, 144, "peer 2.99", "peer 9.04");
    slstm_cell(d, 64, 512, 4, 144, "peer 5.47", "peer 13.9");
    slstm_cell(d, 8, 512, 4, 384, "peer 1.55", "peer 4.55");
  }
  if (wanted("decode")) {
    const random_decoder<D> model(d);
    decode(d, model, 1, "peer 2.5k tokens/s");
    decode(d, model, 64, "peer 63.5k tokens/s");
    ragged(d, model, "greedy", {.capacity = 64}, {.temperature = 0}, "");
    ragged(d, model, "temperature 0.8", {.capacity = 64}, {.temperature = 0.8}, "");
  }
  if (wanted("decode") || wanted("teacher")) {
    const random_teacher smollm(smollm2_shape());
    const auto teacher = load_llama<float>(d, smollm.folder);
    teacher_decode(d, teacher, 1, "peer 365 tokens/s");
    teacher_decode(d, teacher, 64, "peer 17.5k tokens/s");
    teacher_decode(d, teacher, 1024, "peer 9.7k tokens/s, not compiled");
  }
  const bool steps = wanted("step");
  if (steps || asked.count("step64") || asked.count("step32") || wanted("linearised")) {
    const random_teacher smollm(smollm2_shape());
    if (steps || asked.count("step64"))
      step(d, "SmolLM2", smollm.folder, 64, 512, "peer 231k tokens/s, 17.9 GiB");
    if (steps || asked.count("step32"))
      step(d, "SmolLM2", smollm.folder, 32, 512, "peer 199k tokens/s, 9.3 GiB");
    if (wanted("linearised")) linearised_steps(d, smollm.folder);
  }
  if (steps || asked.count("qwen")) {
    const random_teacher qwen(qwen2_shape());
    step(d, "Qwen2.5", qwen.folder, 8, 512, "peer 44.1k tokens/s, 13.1 GiB");
  }
}

}  // namespace
}  // namespace distil_xlstm

int main(int count, char** words) {
  using namespace distil_xlstm;
  std::set<std::string> asked(words + 1, words + count);
  try {
    if (asked.erase("fp32") > 0)
      table<fp32>(asked);
    else
      table<bf16_mixed>(asked);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "bench: %s\n", e.what());
    return 1;
  }
}
