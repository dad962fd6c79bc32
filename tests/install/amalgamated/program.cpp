// Two translation units of the core in one file: this one trains a student for some steps, without files; the other scores
// a text.
#include <cstddef>
#include <cstdint>
#include <iostream>
#include <vector>

#include "student.hpp"

int main() {
  dx::device::cpu device(1);
  constexpr dx::index vocabulary = 5, time = 20;
  std::vector<float> numbers(vocabulary * width);
  dx::rng random(1);
  for (float& x : numbers) x = static_cast<float>(random.normal());
  const dx::frozen_matrix ends{numbers.data(), dx::dtype::f32, vocabulary, width};
  student model(device, layers(), ends, ends, nullptr);
  model.initialise(device, 2);

  // 0 1 2 3 4 0 1 ...: what comes next is known.
  std::vector<std::int32_t> ids(time), next(time);
  for (std::size_t i = 0; i < time; ++i)
    ids[i] = static_cast<std::int32_t>(i % vocabulary),
    next[i] = static_cast<std::int32_t>((i + 1) % vocabulary);
  const dx::sequence_view seq{1, time, nullptr};

  student::weights_type gradients(device, model.trained()), first(device, model.trained()),
      second(device, model.trained());
  dx::optim::adamw_state<float> moments{first.data(), second.data()};
  const auto term = dx::loss::cross_entropy().at<float>({}).logits;
  const auto tape = model.make_tape(device, 1, time, false);
  std::vector<float> memory(4 * time * width);
  const auto rows = [&](dx::index i) {
    return dx::matrix_view<float>(memory.data() + i * time * width, time, width);
  };
  const auto x = rows(0), hidden = rows(1), dhidden = rows(2), dx_rows = rows(3);

  // Families of models are in the file, too.
  if (dx::xlstm_architecture("default", vocabulary, 64, 4, 4, true).total() <= 0) return 1;

  const double before = nll(device, model, ids, next);
  for (int step = 0; step < 20; ++step) {
    const auto state = model.make_state(device, 1);
    fill(device, dx::matrix_view<float>(gradients.data(), 1, gradients.size()));
    model.forward(device, seq, ids.data(), state, tape, x, hidden);
    dx::loss::head(device, term, dx::const_view<float>(hidden), {}, model.head(), next.data(), nullptr,
                   1.0f / time, dhidden);
    model.backward(device, seq, ids.data(), gradients, tape, x, dhidden, dx_rows);
    dx::optim::step(device, {}, 1e-2, model.weights().data(), gradients.data(), moments, gradients.size());
  }
  const double after = nll(device, model, ids, next);
  std::cout << before << " nats a token before, " << after << " after\n";
  return after < 0.5 * before ? 0 : 1;
}
