// A block of one's own. The library's blocks are no different from this one: small values that describe their
// memory, and own none. Here is a minGRU (Feng et al. 2024, arXiv 2410.01201), about the least a recurrent
// layer can be:
//
//   z = sigmoid(Wz x),  u = Wu x,  h = (1 - z) h' + z u
//
// with [Wz; Wu] one map of twice the width.
//
// Written down once, it is proved by the library's gradient check, stacked, trained, saved and run like any
// other.

#include <algorithm>
#include <cmath>
#include <iostream>
#include <vector>

#include <distil_xlstm/distil_xlstm.hpp>
#include <distil_xlstm/testing/gradcheck.hpp>

namespace dx = distil_xlstm;
using cpu = dx::device::cpu;

template <class T>
struct mingru_tape {
  dx::matrix_view<T> zu, h;  // [rows, 2 width]: gate and candidate; [rows, width]
  T* initial;                // [batch, width]: the h that came in
};

struct mingru {
  dx::index width = 0;
  dx::index width_in() const { return width; }
  dx::index width_out() const { return width; }

  // Replayed over no memory this measures; over an arena it binds; over a manifest it names. The names are
  // those of the checkpoint, and of an error message.
  auto params(auto& l) const {
    return l.scope("gate_and_candidate", [&] { return map().params(l); });
  }
  // All that one sequence remembers, in one place for each: to be saved, forked, or moved to another batch.
  auto state(auto& l) const { return l.state("h", {width}); }
  // What forward leaves for backward.
  template <class T>
  auto tape(dx::layout<T>& l, dx::sequence_view seq) const {
    return mingru_tape<T>{l.matrix("zu", seq.rows(), 2 * width), l.matrix("h", seq.rows(), width),
                          l.tensor("initial", {seq.batch, width})};
  }

  // Reads x, writes y, advances the state: a task a channel of a sequence. Where a document begins, the past is
  // nothing: whatever lies in the state or before in the row belongs to another text. (A lambda is for the CPU;
  // a GPU takes a struct whose operator() is DISTIL_XLSTM_HD.)
  template <class T>
  void forward(auto& d, dx::sequence_view seq, const auto& p, const auto& state, const mingru_tape<T>& k,
               dx::const_view<T> x, dx::matrix_view<T> y) const {
    map().forward(d, p, x, k.zu);
    parallel_for(d, seq.batch * width, [=, n = width](dx::index i) {
      const dx::index b = i / n, c = i % n;
      T h = k.initial[i] = state.of(b)[c];
      for (dx::index t = 0, r = b * seq.time; t < seq.time; ++t, ++r) {
        T &z = k.zu.row(r)[c], u = k.zu.row(r)[n + c];
        z = dx::math::sigmoid(z);
        h = k.h.row(r)[c] = y.row(r)[c] = (1 - z) * (seq.begins(b, t) ? T(0) : h) + z * u;
      }
      state.of(b)[c] = h;
    });
  }
  // Adds to the gradients g, and writes dx. dh is what reaches h from later times; z and u give their places to
  // their gradients.
  template <class T>
  void backward(auto& d, dx::sequence_view seq, const auto& p, const auto& g, const mingru_tape<T>& k,
                dx::const_view<T> x, dx::const_view<T> dy, dx::matrix_view<T> dx) const {
    parallel_for(d, seq.batch * width, [=, n = width](dx::index i) {
      const dx::index b = i / n, c = i % n;
      T dh = 0;
      for (dx::index t = seq.time - 1, r = b * seq.time + t; t >= 0; --t, --r) {
        const bool begins = seq.begins(b, t);
        const T before = begins ? T(0) : t > 0 ? k.h.row(r - 1)[c] : k.initial[i];
        T &z = k.zu.row(r)[c], &u = k.zu.row(r)[n + c];
        dh += dy.row(r)[c];
        const T dz = dh * (u - before) * z * (1 - z), du = dh * z;
        dh = begins ? T(0) : dh * (1 - z);
        z = dz, u = du;
      }
    });
    map().backward(d, p, g, x, k.zu, dx);
  }
  dx::linear<> map() const {
    return {.in = width, .out = 2 * width, .standard_deviation = 1 / std::sqrt(static_cast<double>(width))};
  }
};
static_assert(dx::Block<mingru>);

// The proofs, in double: every gradient is the finite difference, over a batch with document boundaries in it;
// and two halves, the state carried from one to the other, are the whole.
bool proved(cpu& device) {
  using harness = dx::testing::harness<mingru, double, cpu>;
  const std::int32_t starts[] = {-1, -1, 2, 2, 2, 2, /* the second sequence */ 0, 0, 0, 0, 4, 4};
  harness checked(mingru{5}, device, {2, 6, starts});
  const auto report = dx::testing::check_gradients(checked);
  std::cout << "worst gradient: " << report.worst_tensor << ", off by " << report.worst_error << '\n';

  harness whole(mingru{5}, device, {1, 8}), half(mingru{5}, device, {1, 4});
  whole.forward();
  double apart = 0;
  for (const dx::index at : {dx::index{0}, half.x.size()}) {
    std::copy_n(whole.x.data() + at, half.x.size(), half.x.data());
    half.forward();
    apart = std::max(apart, dx::testing::relative_error(half.y.data(), whole.y.data() + at, half.y.size()));
  }
  std::cout << "two halves are off the whole by " << apart << '\n';
  return report.worst_error < 1e-7 && apart < 1e-12;
}

// A toy language that takes a memory: a digit, a chatter of five equal signs until the last of them, "?", comes
// up, then the digit again, as a letter. Nothing but the answer can be known beforehand.
struct toy_language {
  static constexpr std::int32_t digits = 8, signs = 5, vocabulary = 2 * digits + signs;
  dx::token_text text;
  double with_memory = 0, without = 0;  // the best cross entropy that there is, a token

  explicit toy_language(int sentences) {
    dx::rng random(1);
    for (int i = 0; i < sentences; ++i) {
      const auto digit = static_cast<std::int32_t>(random.below(digits));
      text.ids.push_back(digit);
      do {
        text.ids.push_back(2 * digits + static_cast<std::int32_t>(random.below(signs)));
      } while (text.ids.back() != vocabulary - 1);
      text.ids.push_back(digits + digit);
    }
    const double n = static_cast<double>(text.size()), surprise = sentences * std::log(digits);
    with_memory = (surprise + (n - 2 * sentences) * std::log(signs)) / n;
    without = with_memory + surprise / n;
  }
};

int main() {
  cpu device;
  if (!proved(device)) return 1;

  const toy_language language(6000);
  constexpr dx::index width = 32, vocabulary = toy_language::vocabulary, steps = 400;
  std::vector<float> numbers(2 * vocabulary * width);
  dx::rng random(2);
  for (float& x : numbers) x = static_cast<float>(random.normal());
  const dx::frozen_matrix embedding{numbers.data(), dx::dtype::f32, vocabulary, width},
      head{numbers.data() + vocabulary * width, dx::dtype::f32, vocabulary, width};

  // Two of them, each beside a skip.
  const auto layers =
      dx::stack{dx::repeated(2, dx::residual{dx::sequential{dx::layer_norm<>{width}, mingru{width}}})};
  dx::model<std::remove_const_t<decltype(layers)>, float, cpu> student(device, layers, embedding, head,
                                                                       nullptr);
  student.initialise(device, 3);

  const dx::token_windows windows(language.text, 64);
  dx::trainer trainer(device, student, windows, dx::no_teacher{}, dx::loss::cross_entropy(),
                      {.batch = 16, .length = 64, .total_steps = steps, .lr = {.peak = 1e-2}});
  const double before = trainer.step()["ce"];
  double after = 0;
  while (trainer.step_count() < steps) after = trainer.step()["ce"];
  std::cout << "cross entropy " << before << " before, " << after << " after " << steps
            << " steps; without memory " << language.without << " were the best, with it "
            << language.with_memory << '\n';
  return after < 0.3 * language.without + 0.7 * language.with_memory ? 0 : 1;
}
