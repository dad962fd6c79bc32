#include "gpu.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include <distil_xlstm/core/rng.hpp>
#include <distil_xlstm/device/cpu.hpp>
#include <distil_xlstm/device/cuda.cuh>
#include <distil_xlstm/distil/teacher_mixers.hpp>
#include <distil_xlstm/model/load_llama.hpp>
#include <distil_xlstm/model/random_llama.hpp>
#include <distil_xlstm/testing/on_host.hpp>
#include <distil_xlstm/testing/tolerances.hpp>

#include "../comparison/teacher_means.hpp"
#include "../comparison/tensor_error.hpp"
#include "../comparison/whole.hpp"

// A frozen teacher whose layers the GPU runs in its own way, in bfloat16, beside the CPU's blocks in double and
// the GPU's own blocks.
namespace distil_xlstm {
namespace {

namespace fs = std::filesystem;
using device::cpu;
/// Only with products in bfloat16 does the GPU take layers whole.
using cuda = device::basic_cuda<bf16_mixed>;
using testing::temporary_folder;

const fs::path data = DISTIL_XLSTM_TEST_DATA;

/// Tokens of `batch` texts, and where their documents begin.
struct problem {
  sequence_view seq;
  std::vector<std::int32_t> ids, start;

  problem(index batch, index time, index vocabulary, bool documents) : seq{batch, time} {
    rng random(static_cast<std::uint64_t>(17 * time + batch));
    for (index i = 0; i < seq.rows(); ++i)
      ids.push_back(static_cast<std::int32_t>(random.below(static_cast<std::uint64_t>(vocabulary))));
    if (!documents) return;
    // One text goes on from before, in the next a document begins at once; others begin inside.
    for (index b = 0; b < batch; ++b)
      for (index t = 0; t < time; ++t) {
        index from = b % 2 == 0 ? -1 : 0;
        for (const index begin : {time / 5 + b, 2 * time / 3, time - 1})
          if (begin > 0 && t >= begin) from = begin;
        start.push_back(static_cast<std::int32_t>(from));
      }
  }
};

/// The embedding, every layer's output, and the last hidden state. With caches that are empty at first, the
/// layers' blocks run, but for single tokens.
template <class T, class D>
std::vector<std::vector<T>> all_hidden(D& device, const llama<T, D>& model, const problem& p, bool blocks) {
  device_copy<std::int32_t, D> ids, start;
  sequence_view seq = p.seq;
  const auto* tokens = ids.put(device, p.ids.data(), seq.rows());
  if (!p.start.empty()) seq.start = start.put(device, p.start.data(), seq.rows());
  const buffer<T, D> memory(device, seq.rows() * model.width());
  const matrix_view<T> last(memory.data(), seq.rows(), model.width());
  std::vector<std::vector<T>> out;
  const auto keep = [&](index, matrix_view<const T> h) {
    out.push_back(testing::on_host(device, h.data, h.size()));
  };
  auto state = model.make_state(device, seq.batch, blocks ? seq.time : 0);
  model.forward(device, seq, tokens, state, last, keep);
  out.push_back(testing::on_host(device, memory));
  return out;
}
template <class A, class B>
double worst_of(const std::vector<std::vector<A>>& a, const std::vector<std::vector<B>>& b) {
  if (a.size() != b.size()) return INFINITY;
  double worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double e = testing::relative_error(a[i], b[i]);
    if (!(e <= worst)) worst = e;
  }
  return worst;
}

/// What each layer's mixer reads and gives, as another in its place learns it.
template <class T, class D>
std::vector<std::vector<double>> all_mixers(D& device, const llama<T, D>& model, const problem& p) {
  device_copy<std::int32_t, D> ids, start;
  sequence_view seq = p.seq;
  const auto* tokens = ids.put(device, p.ids.data(), seq.rows());
  if (!p.start.empty()) seq.start = start.put(device, p.start.data(), seq.rows());
  std::vector<std::vector<double>> out;
  const auto keep = [&]<class S>(matrix_view<const S> m) {
    const auto numbers = testing::on_host(device, m.data, m.size());
    out.emplace_back(numbers.begin(), numbers.end());
  };
  for_each_mixer(
      device, model, seq, tokens,
      [&](index, matrix_view<const operand_t<D, T>> u, matrix_view<const T> a) { keep(u), keep(a); });
  return out;
}

using limits = testing::cuda_tolerance;

/// Whether any layer is of the kind that the GPU takes whole.
bool has_a_known_layer(const llama_config& c) {
  return !c.head_norms && !c.output_bias && c.window == 0 &&
         (c.rotates.empty() || std::find(c.rotates.begin(), c.rotates.end(), true) != c.rotates.end());
}

/// `own`: that the GPU takes the layers whole.
void compare(const fs::path& folder, const std::string& name, double limit, bool own = true) {
  cpu host(2);
  cuda gpu;
  const auto reference = load_llama<double>(host, folder);
  const auto model = load_llama<float>(gpu, folder);
  own = own && has_a_known_layer(model.config());
  double sum = 0, of_blocks = 0;  // over all problems: one value of so few numbers is chance
  for (const index time : {1, 63, 65, 500})
    for (const bool documents : {false, true}) {
      const problem p(2, time, reference.vocabulary(), documents);
      const auto want = all_hidden(host, reference, p, false);
      const auto got = all_hidden(gpu, model, p, false), blocks = all_hidden(gpu, model, p, true);
      const double error = worst_of(got, want);
      BOOST_TEST(error <= limit,
                 name << " of " << time << (documents ? ", documents" : "") << ": off by " << error);
      if (time > 1) BOOST_TEST((got == blocks) == !own);
      sum += error, of_blocks += worst_of(blocks, want);
      if (model.config().window > 0) continue;  // which texts may not be longer than
      const double of_mixers = worst_of(all_mixers(gpu, model, p), all_mixers(host, reference, p));
      BOOST_TEST(of_mixers <= 3 * limit, name << " of " << time << ": a mixer is off by " << of_mixers);
    }
  BOOST_TEST(sum <= limits::teacher_by_blocks * of_blocks,
             name << ": off by " << sum / of_blocks << " times as much as the layers' blocks");
  BOOST_TEST_MESSAGE(name << ": off by " << sum / of_blocks << " times as much as the layers' blocks");
}

struct shape {
  index width, heads, kv_heads, head_dim, inner;
  bool qwen;
  dtype stored;
};
/// A random teacher in a folder; its biases are as large as what they are added to.
void write_teacher(const fs::path& folder, const shape& s, index layers = 2) {
  write_random_llama(folder,
                     {.model_type = s.qwen ? "qwen2" : "llama",
                      .vocabulary = 300,
                      .width = s.width,
                      .layers = layers,
                      .heads = s.heads,
                      .kv_heads = s.kv_heads,
                      .head_dim = s.head_dim,
                      .intermediate = s.inner},
                     s.stored, 9);
}

}  // namespace

BOOST_AUTO_TEST_CASE(teachers_of_the_reference) {
  auto folders = testing::golden_models(data / "golden/teacher");
  folders.push_back(data / "data/teacher");
  BOOST_TEST(folders.size() == 15u);
  for (const auto& folder : folders) compare(folder, folder.filename().string(), limits::narrow_teacher);
}

BOOST_AUTO_TEST_CASE(shapes) {
  const std::pair<const char*, shape> all[] = {
      {"groups of three, heads of 64", {192, 3, 1, 64, 264, false, dtype::bf16}},
      {"biases, heads of 128", {256, 4, 2, 128, 320, true, dtype::f32}},
      {"biases, heads of 80", {160, 6, 3, 80, 216, true, dtype::bf16}},
      {"heads of 2", {36, 3, 3, 2, 49, false, dtype::bf16}},
  };
  for (const auto& [name, s] : all) {
    const temporary_folder folder;
    write_teacher(folder.path, s);
    compare(folder.path, name, s.head_dim < 16 ? limits::narrow_teacher : limits::teacher);
  }
  // Heads that are too wide for the tensor cores' attention.
  const temporary_folder folder;
  write_teacher(folder.path, {96, 2, 1, 144, 64, true, dtype::bf16});
  compare(folder.path, "heads of 144", limits::teacher, false);
}

/// The last hidden states of `batch` texts, step by step, after a prompt of `before` tokens; some of the texts begin
/// a document in the third step. A text's tokens do not depend on the batch.
template <class T, class D>
std::vector<std::vector<T>> hidden_by_steps(D& device, const llama<T, D>& model, index batch, index before) {
  constexpr index steps = 5;
  auto state = model.make_state(device, batch, before + steps);
  device_copy<std::int32_t, D> placed_ids, placed_starts;
  std::vector<std::vector<T>> out;
  for (index at = 0; at < before + steps;) {
    const index time = at < before ? before : 1;
    std::vector<std::int32_t> ids, starts;
    for (index b = 0; b < batch; ++b) {
      rng random(static_cast<std::uint64_t>(1000 * b + at));
      for (index t = 0; t < time; ++t)
        ids.push_back(static_cast<std::int32_t>(random.below(static_cast<std::uint64_t>(model.vocabulary()))));
      starts.push_back(at == before + 2 && b % 3 == 1 ? 0 : -1);
    }
    const auto* placed = placed_ids.put(device, ids.data(), std::ssize(ids));
    sequence_view seq{batch, time};
    if (at >= before) seq.start = placed_starts.put(device, starts.data(), batch);
    const buffer<T, D> hidden(device, seq.rows() * model.width());
    model.forward(device, seq, placed, state, {hidden.data(), seq.rows(), model.width()});
    if (at >= before) out.push_back(testing::on_host(device, hidden));
    at += time;
  }
  return out;
}

BOOST_AUTO_TEST_CASE(single_tokens_behind_what_is_kept) {
  const std::pair<const char*, shape> all[] = {
      {"groups of three, heads of 64", {192, 3, 1, 64, 264, false, dtype::bf16}},
      {"biases, heads of 80, pairs", {160, 6, 3, 80, 216, true, dtype::f32}},
      {"heads of 144", {96, 2, 2, 144, 64, true, dtype::bf16}},
      {"groups of nine, heads of 16, wide rows", {1032, 9, 1, 16, 72, false, dtype::bf16}},
  };
  cpu host(2);
  cuda gpu;
  for (const auto& [name, s] : all) {
    const temporary_folder folder;
    write_teacher(folder.path, s);
    const auto reference = load_llama<double>(host, folder.path);
    const auto model = load_llama<float>(gpu, folder.path);
    std::vector<std::vector<float>> alone;
    const std::pair<index, index> sizes[] = {{1, 0}, {3, 0}, {12, 0}, {40, 0}, {1, 200}, {40, 90}};
    for (const auto& [batch, before] : sizes) {
      const auto want = hidden_by_steps(host, reference, batch, before);
      const auto got = hidden_by_steps(gpu, model, batch, before);
      const double error = worst_of(got, want);
      BOOST_TEST(error <= limits::teacher,
                 name << ", " << batch << " texts behind " << before << ": off by " << error);
      if (before > 0) continue;
      if (batch == 1) alone = got;
      // Sums over few keys are the same in any company.
      for (std::size_t i = 0; i < got.size(); ++i)
        BOOST_TEST(std::equal(alone[i].begin(), alone[i].end(), got[i].begin()), name << ", " << batch);
    }
  }
}

BOOST_AUTO_TEST_CASE(nothing_even) {
  const temporary_folder folder;
  write_teacher(folder.path, {75, 6, 2, 10, 51, true, dtype::f32});
  compare(folder.path, "nothing even", limits::narrow_teacher);
}

BOOST_AUTO_TEST_CASE(nothing_is_allocated_after_the_first_and_runs_are_equal) {
  const temporary_folder folder;
  write_teacher(folder.path, {192, 3, 1, 64, 264, true, dtype::bf16});
  cuda gpu;
  const auto model = load_llama<float>(gpu, folder.path);
  const problem p(4, 130, model.vocabulary(), true);
  const auto first = all_hidden(gpu, model, p, false);
  const index generation = gpu.scratch_generation();
  std::size_t before = 0, after = 0, total = 0;
  cudaMemGetInfo(&before, &total);
  for (int run = 0; run < 3; ++run) BOOST_TEST((all_hidden(gpu, model, p, false) == first));
  cudaMemGetInfo(&after, &total);
  BOOST_TEST(gpu.scratch_generation() == generation);
  BOOST_TEST(before == after);
}

/// The first layer's output, beside its input or over it.
std::vector<float> first_layer(cuda& gpu, const llama<float, cuda>& model, index texts, index time, bool over) {
  const auto& layer = model.stack().blocks.blocks.front();
  const sequence_view seq{texts, time};
  const index size = seq.rows() * model.width();
  layout<float> none, measure;
  measure.transient(true);
  layer.tape(measure, seq);
  const auto state = layer.state(none);
  const buffer<float, cuda> memory(gpu, measure.size()), streams(gpu, 2 * size);
  layout<float> bound(memory.data());
  bound.transient(true);
  const auto tape = layer.tape(bound, seq);
  rng random(21);
  std::vector<float> numbers;
  for (index i = 0; i < size; ++i) numbers.push_back(static_cast<float>(random.normal()));
  gpu.upload(streams.data(), numbers.data(), size * 4);
  const matrix_view<float> x(streams.data(), seq.rows(), model.width()),
      y(over ? x.data : x.data + size, x.rows, x.cols);
  layer.forward(gpu, seq, model.stack_weights().blocks.front(), state, tape, matrix_view<const float>(x), y);
  if (!over) BOOST_TEST((testing::on_host(gpu, x.data, size) == numbers));
  return testing::on_host(gpu, y.data, size);
}

BOOST_AUTO_TEST_CASE(a_layer_over_its_input) {
  // Where cuBLASLt adds the input (rows begin at 16 bytes), and where nothing but a copy does.
  for (const shape& s : {shape{192, 3, 1, 64, 264, false, dtype::bf16}, {75, 6, 2, 10, 51, true, dtype::f32}}) {
    const temporary_folder folder;
    write_teacher(folder.path, s);
    cuda gpu;
    const auto model = load_llama<float>(gpu, folder.path);
    for (const index time : {1, 70}) {
      const auto over = first_layer(gpu, model, 3, time, true),
                 beside = first_layer(gpu, model, 3, time, false);
      BOOST_TEST(testing::relative_error(beside, over) <= limits::teacher);
    }
  }
}

BOOST_AUTO_TEST_CASE(means_of_layers) {
  const temporary_folder folder;
  write_teacher(folder.path, {192, 3, 1, 64, 264, false, dtype::bf16}, 11);
  cuda gpu;
  const auto model = load_llama<float>(gpu, folder.path);
  const testing::forgetful_llama<float, cuda> forgetful{model};
  const std::vector<layer_range> ranges{{1, 11}, {1, 10}, {2, 11}, {1, 4},  {3, 8},
                                        {1, 1},  {5, 6},  {5, 7},  {9, 11}, {11, 11}};
  BOOST_TEST((testing::teacher_means(gpu, model, 3, 65, ranges) ==
              testing::teacher_means(gpu, forgetful, 3, 65, ranges)));
}

BOOST_AUTO_TEST_CASE(layers_with_a_matrix_that_nothing_rounded_take_the_blocks) {
  const cuda gpu;
  const device::cuda exact;
  decoder_layer_arguments<float> a{};
  float x = 0;
  bf16 half;
  a.shape = {3, 1, 64}, a.x = {&x, 1, 192}, a.y = {&x, 1, 192}, a.rotates = true;
  a.attention_norm = a.feed_forward_norm = {1, 192, false, false, 1e-5f, nullptr};
  frozen_matrix* const all[] = {&a.q, &a.k, &a.v, &a.o, &a.gate, &a.up, &a.down};
  for (frozen_matrix* m : all) *m = {&x, dtype::f32, 1, 1, &half};
  BOOST_TEST(has_decoder_layer(gpu, a));
  BOOST_TEST(!has_decoder_layer(exact, a));
  for (frozen_matrix* m : all) {
    m->bf16_copy = nullptr;
    BOOST_TEST(!has_decoder_layer(gpu, a));
    m->dtype = dtype::bf16;
    BOOST_TEST(has_decoder_layer(gpu, a));
    *m = {&x, dtype::f32, 1, 1, &half};
  }
  // And layers with what the device's own way does not know.
  const auto unknown = [&](auto&& change) {
    auto b = a;
    change(b);
    BOOST_TEST(!has_decoder_layer(gpu, b));
  };
  BOOST_TEST(has_decoder_layer(gpu, a));
  unknown([](auto& b) { b.rotates = false; });
  unknown([&](auto& b) { b.q_norm = {1, 64, false, false, 1e-5f, &x}; });
  unknown([&](auto& b) { b.k_norm = {1, 64, false, false, 1e-5f, &x}; });
  unknown([&](auto& b) { b.o_bias = &x; });
  unknown([](auto& b) { b.shape.window = 4; });
}

BOOST_AUTO_TEST_CASE(of_layers_with_a_memory_only_steps_are_known) {
  const cuda gpu;
  alignas(16) float x[4] = {};
  alignas(16) bf16 w[8] = {};
  decoder_layer_arguments<float> a{};
  a.seq = {3, 1}, a.shape = {3, 1, 64}, a.x = {x, 3, 192}, a.y = {x, 3, 192}, a.rotates = true;
  a.attention_norm = a.feed_forward_norm = {1, 192, false, false, 1e-5f, x};
  for (frozen_matrix* m : {&a.q, &a.k, &a.v, &a.o, &a.gate, &a.up, &a.down}) *m = {w, dtype::bf16, 264, 192};
  a.cosines = a.sines = {x, 3, 32}, a.keys = a.values = a.position = {x, 16};
  BOOST_TEST(has_decoder_layer(gpu, a));
  const auto unknown = [&](auto&& change) {
    auto b = a;
    change(b);
    BOOST_TEST(!has_decoder_layer(gpu, b));
  };
  unknown([](auto& b) { b.seq = {1, 3}; });
  unknown([](auto& b) { b.x.rows = 65; });
  unknown([](auto& b) { b.shape.width = 60; });
  unknown([](auto& b) { b.shape.window = 4; });
  unknown([](auto& b) { b.gate.rows = 263; });
  unknown([&](auto& b) { b.keys.data = x + 1; });
  unknown([&](auto& b) { b.down.data = w + 1; });
}

}  // namespace distil_xlstm
