// Is the number of ones so far even or odd? One bit of memory would do, but what is read must *change* it:
// state tracking. A memory that only fades and adds cannot. mLSTM's moves linearly, by gates that have seen the
// input alone, and its forget gate, between 0 and 1, never flips a sign. sLSTM feeds its last output back into
// its gates, through a nonlinearity. That is why a stack mixes both kinds: Beck et al. 2024 (arXiv 2405.04517,
// section 4.1) show the task, Merrill et al. 2024 (arXiv 2404.08819) the reason.
//
// Two models of about one size are trained by the same curriculum, bit strings that become longer whenever the model has
// learnt their length; then tested on strings five times as long as any they were trained on.

#include <algorithm>
#include <cstdlib>
#include <iomanip>
#include <iostream>
#include <vector>

#include <distil_xlstm/distil_xlstm.hpp>

namespace dx = distil_xlstm;
using cpu = dx::device::cpu;

constexpr dx::index width = 32, training_steps = 800, longest_training = 40, test_length = 200;

// Strings of random bits, and the answer after each bit.
struct strings {
  dx::sequence_view seq;
  std::vector<std::int32_t> bits, parity;

  strings(dx::index how_many, dx::index length, dx::rng& random) : seq{how_many, length} {
    for (dx::index s = 0; s < how_many; ++s)
      for (std::int32_t t = 0, odd = 0; t < length; ++t) {
        bits.push_back(static_cast<std::int32_t>(random.below(2)));
        parity.push_back(odd ^= bits.back());
      }
  }
};

// The same around either cell: its norm and skip, then a norm and a linear map to face a head that never
// learns.
template <class Cell>
auto around(Cell cell) {
  return dx::sequential{dx::residual{dx::sequential{dx::layer_norm<>{width}, cell}}, dx::layer_norm<>{width},
                        dx::linear<>{.in = width, .out = width, .standard_deviation = 0.2}};
}

// Embedding and head: a random vector for each bit, and for each answer.
std::vector<float> random_matrices(dx::rng& random) {
  std::vector<float> numbers(4 * width);
  for (float& x : numbers) x = static_cast<float>(random.normal());
  return numbers;
}

// `dx::trainer` distils: the next token, as a teacher predicts it. Training for another task is a page of the library's
// pieces.
template <class Stack>
class parity_model {
 public:
  parity_model(cpu& device, Stack stack, std::uint64_t seed)
      : device_(device),
        random_(seed),
        matrices_(random_matrices(random_)),
        model_(device, stack, {matrices_.data(), dx::dtype::f32, 2, width},
               {matrices_.data() + 2 * width, dx::dtype::f32, 2, width}, nullptr),
        gradients_(device, stack),
        first_moment_(device, stack),
        second_moment_(device, stack) {
    model_.initialise(device, random_());
  }

  // One training step on fresh strings. Returns the accuracy before it.
  double train(dx::index length) {
    const strings s(64, length, random_);
    const dx::index rows = s.seq.rows();
    const auto tape = model_.make_tape(device_, s.seq.batch, length, false);
    const row_buffer x(device_, rows), y(device_, rows), gradient_of_x(device_, rows),
        gradient_of_y(device_, rows);
    const double right = read(s, tape, x, y);

    // The answers are compared with the head's, and the gradient goes back through the tape.
    const auto objective = dx::loss::cross_entropy().at<float>({});
    dx::loss::head(device_, objective.logits, y.read(), {}, model_.head(), s.parity.data(), nullptr,
                   1 / static_cast<float>(rows), gradient_of_y.write());
    std::fill_n(gradients_.data(), gradients_.size(), 0.0f);
    model_.stack().backward(device_, s.seq, model_.weights().views(), gradients_.views(), tape.views(),
                            x.read(), gradient_of_y.read(), gradient_of_x.write());

    const auto norm = dx::optim::global_norm(device_, gradients_.data(), gradients_.size());
    dx::optim::adamw_state<float> moments{first_moment_.data(), second_moment_.data(), steps_++};
    dx::optim::step(device_, dx::optim::adamw{}, 1e-2, model_.weights().data(), gradients_.data(), moments,
                    gradients_.size(), {}, dx::optim::clip_factor(norm.value, 1.0));
    return right;
  }

  double test(dx::index length) {
    const strings s(256, length, random_);
    const row_buffer x(device_, s.seq.rows()), y(device_, s.seq.rows());
    return read(s, model_.make_tape(device_, s.seq.batch, length), x, y);
  }
  dx::index size() const {
    dx::index n = 0;
    for (const auto& tensor : model_.names()) n += tensor.size;
    return n;
  }

 private:
  using student = dx::model<Stack, float, cpu>;
  struct row_buffer {
    dx::index rows;
    dx::buffer<float, cpu> memory;
    row_buffer(cpu& device, dx::index n) : rows(n), memory(device, n * width) {}
    dx::matrix_view<float> write() const { return {memory.data(), rows, width}; }
    dx::matrix_view<const float> read() const { return write(); }
  };

  double read(const strings& s, const typename student::tape_type& tape, const row_buffer& x,
              const row_buffer& y) {
    const auto state = model_.make_state(device_, s.seq.batch);
    model_.forward(device_, s.seq, s.bits.data(), state, tape, x.write(), y.write());
    const auto scores = dx::loss::score_tokens(device_, y.read(), model_.head(), s.parity.data(), nullptr);
    return static_cast<double>(scores.correct) / static_cast<double>(s.seq.rows());
  }

  cpu& device_;
  dx::rng random_;
  std::vector<float> matrices_;
  student model_;
  typename student::weights_type gradients_, first_moment_, second_moment_;
  std::int64_t steps_ = 0;
};

template <class Cell>
double accuracy_of(const char* name, Cell cell, std::uint64_t seed) {
  cpu device;
  parity_model model(device, around(cell), seed);
  dx::index length = 2, learnt = 0;
  double recent = 0.5;  // accuracy, an exponential average
  for (dx::index step = 0; step < training_steps && learnt < longest_training; ++step) {
    recent += 0.2 * (model.train(length) - recent);
    if (recent > 0.98)
      learnt = length, length = std::min(length + 1 + length / 4, longest_training), recent = 0.5;
    // A model that is slow at short strings is trained on the longest from here on.
    if (step == training_steps / 2) length = longest_training;
  }
  const double accuracy = model.test(test_length);
  std::cout << name << std::setw(9) << model.size() << std::setw(10) << learnt << std::setw(20) << accuracy
            << '\n';
  return accuracy;
}

int main(int argc, char** argv) {
  const std::uint64_t seed = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 1;
  std::cout << "       weights    length  accuracy at " << test_length << '\n' << std::setprecision(3);
  const double s = accuracy_of("sLSTM", dx::slstm{.width = width, .heads = 1, .conv_window = 0}, seed);
  const double m = accuracy_of("mLSTM", dx::mlstm{.width = width, .heads = 2, .inner = 64}, seed);
  std::cout << "A guess is right half of the time.\n";
  return s >= 0.98 && m <= 0.75 ? 0 : 1;
}
