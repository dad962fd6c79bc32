#include "measure.cuh"
#include "parts.hpp"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <map>
#include <vector>

#include <distil_xlstm/device/captured_graph.hpp>
#include <distil_xlstm/model/decoder.hpp>
#include <distil_xlstm/model/load_llama.hpp>
#include <distil_xlstm/op/sampling/op.hpp>

#include "../../random_decoder.hpp"
#include "../../random_teacher.hpp"

namespace distil_xlstm::bench {
namespace {

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

}  // namespace

template <Precision P>
void student_decodes(device::basic_cuda<P>& d) {
  const random_decoder<device::basic_cuda<P>> model(d);
  decode(d, model, 1, "peer 2.5k tokens/s");
  decode(d, model, 64, "peer 63.5k tokens/s");
  ragged(d, model, "greedy", {.capacity = 64}, {.temperature = 0}, "");
  ragged(d, model, "temperature 0.8", {.capacity = 64}, {.temperature = 0.8}, "");
}
template <Precision P>
void teacher_decodes(device::basic_cuda<P>& d) {
  const random_teacher smollm(smollm2_shape());
  const auto teacher = load_llama<float>(d, smollm.folder);
  teacher_decode(d, teacher, 1, "peer 365 tokens/s");
  teacher_decode(d, teacher, 64, "peer 17.5k tokens/s");
  teacher_decode(d, teacher, 1024, "peer 9.7k tokens/s, not compiled");
}

template void student_decodes(device::basic_cuda<fp32>&);
template void student_decodes(device::basic_cuda<bf16_mixed>&);
template void teacher_decodes(device::basic_cuda<fp32>&);
template void teacher_decodes(device::basic_cuda<bf16_mixed>&);

}  // namespace distil_xlstm::bench
