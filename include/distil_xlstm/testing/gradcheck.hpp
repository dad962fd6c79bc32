#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include <distil_xlstm/block/block.hpp>
#include <distil_xlstm/device/device.hpp>
#include <distil_xlstm/testing/on_host.hpp>

namespace distil_xlstm::testing {

/// How far two arrays are apart: max |a - b| / max |b|, b the reference.
template <class A, class B>
double relative_error(const A* a, const B* b, index n) {
  double difference = 0, largest = 0;
  for (index i = 0; i < n; ++i) {
    const double x = static_cast<double>(a[i]), y = static_cast<double>(b[i]);
    if (!(std::abs(x - y) <= 1e300)) return INFINITY;
    difference = std::max(difference, std::abs(x - y));
    largest = std::max(largest, std::abs(y));
  }
  return largest > 0 ? difference / largest : difference;
}

/// Random weights, input and output gradient and an empty state for one block: all that a call of it needs, in the
/// device's memory.
template <Block B, class T, class D>
struct harness {
  B block;            ///< that is tried
  D& device;          ///< where; it must live as long
  sequence_view seq;  ///< the shape of a call; `start` is the host's, which must live as long
  /// @{ The block's weights, and the state of one sequence.
  manifest names, state_names;
  /// @}
  /// @{ Memory of weights and their gradients as `names` says, of all sequences' states, of the tape, and of input
  /// [rows, in] and output [rows, out] with their gradients. Those of weights begin as 0; backward adds to them.
  buffer<T, D> weights, gradients, states, tapes, x, dx, y, dy;
  /// @}
  /// @{ What the block's description binds to that memory: weights, gradients, state, tape.
  weights_t<B, T> p, g;
  state_t<B, T> s;
  tape_t<B, T> k;
  /// @}
  index state_size = 0;  ///< numbers of one sequence's state

  /// Weights are normal with the standard deviation `weight_scale`, x and dy with 1; the state is empty.
  harness(B b, D& d, sequence_view sequence, std::uint64_t seed = 1, double weight_scale = 0.4)
      : block(b), device(d), seq(sequence) {
    rng random(seed);
    layout<T> measure(nullptr, &names);
    block.params(measure);
    weights = buffer<T, D>(d, measure.size()), gradients = buffer<T, D>(d, measure.size());
    layout<T> wl(weights.data()), gl(gradients.data());
    p = block.params(wl), g = block.params(gl);
    std::vector<T> numbers(static_cast<std::size_t>(weights.size()));
    for (const auto& e : names)
      for (index i = 0; i < e.size; ++i)
        numbers[static_cast<std::size_t>(e.offset + i)] = static_cast<T>(weight_scale * random.normal());
    to_device(d, weights, numbers);
    layout<T> state_measure(nullptr, &state_names);
    block.state(state_measure);
    state_size = state_measure.size();
    states = buffer<T, D>(d, seq.batch * state_size);
    layout<T> sl(states.data());
    sl.sequence_stride(state_size);
    s = block.state(sl);
    reset_state();
    layout<T> tape_measure;
    block.tape(tape_measure, seq);
    tapes = buffer<T, D>(d, tape_measure.size());
    layout<T> tl(tapes.data());
    k = block.tape(tl, seq);
    x = buffer<T, D>(d, seq.rows() * block.width_in()), dx = buffer<T, D>(d, x.size());
    y = buffer<T, D>(d, seq.rows() * block.width_out()), dy = buffer<T, D>(d, y.size());
    for (const auto* m : {&x, &dy}) {
      numbers.resize(static_cast<std::size_t>(m->size()));
      for (T& v : numbers) v = static_cast<T>(random.normal());
      to_device(d, *m, numbers);
    }
  }
  /// All sequences begin with an empty state.
  void reset_state() {
    rng none;
    std::vector<T> numbers(static_cast<std::size_t>(states.size()));
    for (index b = 0; b < seq.batch; ++b)
      for (const auto& e : state_names)
        for (index i = 0; e.initial && i < e.size; ++i)
          numbers[static_cast<std::size_t>(b * state_size + e.offset + i)] = static_cast<T>(e.initial(i, none));
    to_device(device, states, numbers);
  }
  /// The sequence as the device reads it.
  sequence_view placed_seq() { return {seq.batch, seq.time, start.put(device, seq.start, seq.rows())}; }
  /// x, [rows, in].
  matrix_view<T> in() { return {x.data(), seq.rows(), block.width_in()}; }
  /// y, [rows, out].
  matrix_view<T> out() { return {y.data(), seq.rows(), block.width_out()}; }
  /// From x and the state as it is: y, the tape, the state after.
  void forward() { block.forward(device, placed_seq(), p, s, k, matrix_view<const T>(in()), out()); }
  /// From dy and the tape: dx, and adds to `gradients`.
  void backward() {
    const matrix_view<T> d_in(dx.data(), seq.rows(), block.width_in()),
        d_out(dy.data(), seq.rows(), block.width_out());
    block.backward(device, placed_seq(), p, g, k, matrix_view<const T>(in()), matrix_view<const T>(d_out),
                   d_in);
  }
  /// sum(dy * y) of a pass from `reset`, summed in double.
  double objective() {
    reset();
    forward();
    host_copy<T, D> of_y, of_dy;
    const T *a = of_y.get(device, y.data(), y.size()), *b = of_dy.get(device, dy.data(), dy.size());
    double sum = 0;
    for (index i = 0; i < y.size(); ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
    return sum;
  }
  std::vector<T> initial_state;  ///< where set, each pass starts from it
  /// Back to the state that each pass starts from: `initial_state`, or an empty one.
  void reset() {
    if (initial_state.empty()) return reset_state();
    to_device(device, states, initial_state);
  }

 private:
  device_copy<std::int32_t, D> start;
};

/// The worst disagreement of one tensor's analytic gradient with central differences.
struct gradient_report {
  std::string worst_tensor;  ///< its name; "input": that by x
  double worst_error = 0;    ///< max |analytic - numeric| / max |numeric| over a tensor
};

/// Compares every weight's and the input's gradient of sum(dy * y) with central differences, in double.
/// Gradients start from 1, so that a backward that assigns instead of adding is caught. At most `samples`
/// numbers a tensor. Of several steps the best counts: a wide one may cross a kink (a maximum's), a narrow one
/// drowns in rounding.
template <Block B, class D>
gradient_report check_gradients(harness<B, double, D>& h, index samples = 40) {
  gradient_report report;
  to_device(h.device, h.gradients, std::vector<double>(static_cast<std::size_t>(h.gradients.size()), 1.0));
  h.reset();
  h.forward();
  h.backward();
  constexpr double steps[] = {3e-4, 3e-5, 3e-6};
  // What rounding alone makes, by the widest step, of a slope that is 0.
  const double noise =
      64 * std::numeric_limits<double>::epsilon() * std::max(1.0, std::abs(h.objective())) / steps[0];
  auto check = [&](const std::string& name, double* values, const double* gradient, index n, double start) {
    double worst = 0, largest = 0;
    const index stride = n > samples ? n / samples : 1;
    for (index i = 0; i < n; i += stride) {
      const double keep = on_host(h.device, static_cast<const double*>(values + i), 1)[0];
      const auto put = [&](double value) { h.device.upload(values + i, &value, sizeof value); };
      auto at = [&](double shift) {
        put(keep + shift);
        return h.objective();
      };
      double best = INFINITY, slope = 0;
      for (const double step : steps) {
        // Fourth order: the error of the difference stays below 1e-9 of a smooth function's.
        const double numeric = (8 * (at(step) - at(-step)) - (at(2 * step) - at(-2 * step))) / (12 * step);
        const double off = std::abs(numeric - (gradient[i] - start));
        if (off < best) best = off, slope = numeric;
      }
      put(keep);
      worst = std::max(worst, best);
      largest = std::max(largest, std::abs(slope));
    }
    const double e = largest > noise ? worst / largest : worst;
    if (!(e <= report.worst_error)) report = {name, e};
  };
  const auto gradients = on_host(h.device, h.gradients), dx = on_host(h.device, h.dx);
  for (const auto& e : h.names)
    check(e.name, h.weights.data() + e.offset, gradients.data() + e.offset, e.size, 1.0);
  check("input", h.x.data(), dx.data(), h.x.size(), 0.0);
  return report;
}

}  // namespace distil_xlstm::testing
