// This source, any host compiler's, uses the model of model.hpp, which nvcc has instantiated in another. It
// reads a text at once and token by token, and continues three beside one another as each alone.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <initializer_list>
#include <map>
#include <span>
#include <vector>

#include "model.hpp"

namespace dx = distil_xlstm;

int main() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) {
    std::puts("skipped: no GPU");
    return 77;
  }
  dx::device::cuda gpu;
  const dx::index vocabulary = 50, width = 32, tokens = 20;
  dx::rng random(1);
  std::vector<float> ends(vocabulary * width);
  for (auto& x : ends) x = static_cast<float>(random.normal());
  const dx::buffer<float, dx::device::cuda> there(gpu, vocabulary * width);
  gpu.upload(there.data(), ends.data(), vocabulary * width * 4);
  const dx::frozen_matrix matrix{there.data(), dx::dtype::f32, vocabulary, width};
  model::student student(gpu, model::stack{}, matrix, matrix, nullptr);
  student.initialise(gpu, 1);
  std::vector<std::int32_t> ids(tokens);
  for (auto& id : ids) id = static_cast<std::int32_t>(random.below(vocabulary));

  const dx::buffer<float, dx::device::cuda> hidden(gpu, tokens * width);
  const auto read = [&](dx::index each) {
    dx::reader<model::student> session(gpu, student);
    for (dx::index t = 0; t < tokens; t += each)
      session.read(std::span(ids).subspan(t, each), {hidden.data() + t * width, each, width});
    std::vector<float> out(tokens * width);
    gpu.download(out.data(), hidden.data(), tokens * width * 4);
    return out;
  };
  const auto whole = read(tokens), steps = read(1);
  float worst = 0, largest = 0;
  for (std::size_t i = 0; i < whole.size(); ++i) {
    worst = std::max(worst, std::abs(whole[i] - steps[i]));
    largest = std::max(largest, std::abs(whole[i]));
  }
  std::printf("largest %g, off by %g\n", static_cast<double>(largest), static_cast<double>(worst));

  using batch = dx::decoder<model::student>;
  const auto write = [&](std::initializer_list<std::uint64_t> seeds) {
    batch texts(gpu, student, {.capacity = 4});
    std::map<batch::handle, std::uint64_t> seed_of;
    std::map<std::uint64_t, std::vector<std::int32_t>> out;
    for (const auto seed : seeds)
      seed_of[texts.join(std::span(ids).first(5 + seed), {.temperature = 0.9, .seed = seed})] = seed;
    while (texts.texts() > 0)
      texts.step([&](batch::handle text, std::int32_t id) {
        auto& mine = out[seed_of.at(text)];
        mine.push_back(id);
        return mine.size() < 8 + 3 * seed_of.at(text);
      });
    return out;
  };
  const auto beside = write({1, 2, 3});
  bool same = beside.size() == 3;
  for (const auto& [seed, text] : beside) same = same && write({seed}).at(seed) == text;
  std::printf("texts beside one another are %s alone\n", same ? "as" : "NOT as");
  return largest > 0 && worst <= 1e-5f * largest && same ? 0 : 1;
}
