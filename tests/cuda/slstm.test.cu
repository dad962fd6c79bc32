#include "gpu.hpp"

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include <distil_xlstm/core/rng.hpp>
#include <distil_xlstm/device/cpu.hpp>
#include <distil_xlstm/device/cuda.cuh>
#include <distil_xlstm/testing/tolerances.hpp>

// The sLSTM time loop on the GPU, beside the oracle on the CPU in double.
namespace distil_xlstm {
namespace {

/// A matrix amid numbers that are not numbers: rows lie further apart than they are long, the first at an odd
/// place.
template <class T>
struct amid {
  index rows, cols, stride, before;
  std::vector<T> memory;

  amid(index r, index c, bool apart)
      : rows(r),
        cols(c),
        stride(apart ? c + 3 : c),
        before(apart ? 1 : 0),
        memory(static_cast<std::size_t>(before + r * stride), std::numeric_limits<T>::quiet_NaN()) {}
  T& at(index r, index c) { return memory[static_cast<std::size_t>(before + r * stride + c)]; }
  T at(index r, index c) const { return memory[static_cast<std::size_t>(before + r * stride + c)]; }
  index bytes() const { return static_cast<index>(memory.size() * sizeof(T)); }
  template <class F>
  void fill(const F& f) {
    for (index r = 0; r < rows; ++r)
      for (index c = 0; c < cols; ++c) at(r, c) = static_cast<T>(f(r, c));
  }
  template <class U>
  void copy(const amid<U>& other) {
    fill([&](index r, index c) { return other.at(r, c); });
  }
  /// Whether all between the rows is as it was.
  bool untouched() const {
    amid rest = *this;
    rest.fill([](index, index) { return std::numeric_limits<T>::quiet_NaN(); });
    for (const T x : rest.memory)
      if (!std::isnan(x)) return false;
    return true;
  }
};

/// The loop's arrays. Of `raw`, `states` and `carry` each direction makes others.
template <class T>
struct cell {
  index batch, time, heads, head;
  std::vector<std::int32_t> start;
  amid<T> recurrent, bias, raw, states, initial, state, dh, carry;

  cell(index b, index t, index n, index d, bool apart)
      : batch(b),
        time(t),
        heads(n),
        head(d),
        recurrent(1, n * 4 * d * d, false),
        bias(1, 4 * n * d, false),
        raw(b * t, 4 * n * d, apart),
        states(b * t, 4 * n * d, apart),
        initial(b, 4 * n * d, false),
        state(b, 4 * n * d, apart),
        dh(b * t, n * d, apart),
        carry(b, 3 * n * d, false) {}

  index width() const { return heads * head; }
  void random(std::uint64_t seed) {
    rng random(seed);
    const auto noise = [&](double spread) {
      return [&random, spread](index, index) { return static_cast<float>(spread * random.normal()); };
    };
    recurrent.fill(noise(1 / std::sqrt(static_cast<double>(head))));
    bias.fill(noise(1)), raw.fill(noise(2)), dh.fill(noise(1)), carry.fill(noise(1));
    // n is positive.
    state.fill([&](index, index c) {
      const auto x = static_cast<float>(0.5 * random.normal());
      return c / width() == 2 ? 1 + std::abs(x) : x;
    });
    // Documents of every length; sequence 0 goes on from before, sequence 1 does not.
    const bool documents = batch * time > 1;
    if (documents) start.assign(static_cast<std::size_t>(batch * time), -1);
    for (index b = 0; b < batch && documents; ++b) {
      std::int32_t last = b == 1 ? 0 : -1;
      for (index t = 0; t < time; ++t) {
        if (t > 0 && random.uniform() < 0.1) last = static_cast<std::int32_t>(t);
        start[static_cast<std::size_t>(b * time + t)] = last;
      }
    }
  }
  template <class U>
  void copy(const cell<U>& o) {
    start = o.start;
    recurrent.copy(o.recurrent), bias.copy(o.bias), raw.copy(o.raw), states.copy(o.states);
    initial.copy(o.initial), state.copy(o.state), dh.copy(o.dh), carry.copy(o.carry);
  }

  void forward(device::cpu& cpu) {
    distil_xlstm::slstm_forward<device::cpu, T>(
        cpu, forward_arguments(starts(), [](auto& x) { return x.memory.data(); }));
  }
  void backward(device::cpu& cpu) {
    distil_xlstm::slstm_backward<device::cpu, T>(
        cpu, backward_arguments(starts(), [](auto& x) { return x.memory.data(); }), carry.memory.data());
  }
  template <Precision P>
  void forward(device::basic_cuda<P>& gpu) {
    mirror there(gpu, *this);
    device::slstm_forward(gpu, forward_arguments(there.start(), there));
  }
  template <Precision P>
  void backward(device::basic_cuda<P>& gpu) {
    mirror there(gpu, *this);
    device::slstm_backward(gpu, backward_arguments(there.start(), there), there(carry));
  }

 private:
  const std::int32_t* starts() const { return start.empty() ? nullptr : start.data(); }
  /// Copies on the device, which come back in the end.
  struct mirror {
    device::cuda_base& gpu;
    std::vector<amid<T>*> all;
    std::vector<buffer<T, device::cuda_base>> copies;
    device_copy<std::int32_t, device::cuda_base> documents;
    const std::int32_t* begin;

    mirror(device::cuda_base& g, cell& c)
        : gpu(g),
          all{&c.recurrent, &c.bias, &c.raw, &c.states, &c.initial, &c.state, &c.dh, &c.carry},
          begin(documents.put(g, c.starts(), static_cast<index>(c.start.size()))) {
      for (const auto* x : all) {
        copies.emplace_back(gpu, static_cast<index>(x->memory.size()));
        gpu.upload(copies.back().data(), x->memory.data(), x->bytes());
      }
    }
    ~mirror() {
      for (std::size_t i = 0; i < all.size(); ++i)
        gpu.download(all[i]->memory.data(), copies[i].data(), all[i]->bytes());
    }
    const std::int32_t* start() const { return begin; }
    T* operator()(const amid<T>& x) const {
      for (std::size_t i = 0; i < all.size(); ++i)
        if (all[i] == &x) return copies[i].data();
      return nullptr;
    }
  };
  template <class P>
  static matrix_view<T> view(amid<T>& x, const P& place) {
    return {place(x) + x.before, x.rows, x.cols, x.stride};
  }
  template <class P>
  slstm_arguments<T> forward_arguments(const std::int32_t* documents, const P& place) {
    return {{batch, time, documents}, heads,          head,
            place(recurrent),         place(bias),    view(raw, place),
            view(states, place),      place(initial), {place(state) + state.before, state.stride}};
  }
  template <class P>
  slstm_backward_arguments<T> backward_arguments(const std::int32_t* documents, const P& place) {
    return {{batch, time, documents}, heads,          head,           place(recurrent), view(raw, place),
            view(states, place),      place(initial), view(dh, place)};
  }
};

/// max |difference| / max |reference| over `columns` of every row.
template <class T, class U>
double error(const amid<T>& got, const amid<U>& want, index first, index columns) {
  double worst = 0, largest = 0;
  for (index r = 0; r < want.rows; ++r)
    for (index c = first; c < first + columns; ++c) {
      const double x = static_cast<double>(got.at(r, c)), y = static_cast<double>(want.at(r, c));
      if (!std::isfinite(x)) {
        BOOST_TEST_MESSAGE("  not finite in row " << r << " column " << c);
        return INFINITY;
      }
      worst = std::max(worst, std::abs(x - y)), largest = std::max(largest, std::abs(y));
    }
  return largest > 0 ? worst / largest : worst;
}

struct tolerance {
  double forward, backward;
};

template <class T, Precision P>
void compare(device::basic_cuda<P>& gpu, index batch, index time, index heads, index head, tolerance most,
             bool apart = true) {
  device::cpu cpu(4);
  const std::string name = std::to_string(batch) + " x " + std::to_string(time) + ", " + std::to_string(heads) +
                           " heads of " + std::to_string(head);
  BOOST_TEST_CONTEXT(name) {
    cell<double> want(batch, time, heads, head, false);
    want.random(static_cast<std::uint64_t>(batch + 10 * time + 1000 * head));
    cell<T> got(batch, time, heads, head, apart);
    got.copy(want);
    want.forward(cpu);
    got.initial.fill([](index, index) { return NAN; }), got.states.fill([](index, index) { return NAN; });
    cell<T> again = got;
    got.forward(gpu), again.forward(gpu);
    std::string line = name + ": forward";
    const auto check = [&](const char* what, double e, double limit) {
      char text[64];
      std::snprintf(text, sizeof text, " %s %.1e", what, e);
      line += text;
      BOOST_TEST(e <= limit, what << " is off by " << e);
    };
    const index width = want.width();
    const char* const states[] = {"h", "c", "n", "m"};
    for (index s = 0; s < 4; ++s) {
      check(states[s], error(got.states, want.states, s * width, width), most.forward);
      check("last", error(got.state, want.state, s * width, width), most.forward);
    }
    check("pre", error(got.raw, want.raw, 0, 4 * width), most.forward);
    check("initial", error(got.initial, want.initial, 0, 4 * width), 0);
    BOOST_TEST((error(got.states, again.states, 0, 4 * width) == 0), "two runs differ");

    // The way back, from the reference's tape.
    got.copy(want), again.copy(want);
    want.backward(cpu), got.backward(gpu), again.backward(gpu);
    line += "; backward";
    const char* const gates[] = {"i", "f", "z", "o"};
    for (index g = 0; g < 4; ++g) check(gates[g], error(got.raw, want.raw, g * width, width), most.backward);
    const char* const carried[] = {"dh", "dc", "dn"};
    for (index s = 0; s < 3; ++s)
      check(carried[s], error(got.carry, want.carry, s * width, width), most.backward);
    BOOST_TEST((error(got.raw, again.raw, 0, 4 * width) == 0), "two runs differ");
    BOOST_TEST((got.raw.untouched() && got.states.untouched() && got.state.untouched()),
               "written between rows");
    BOOST_TEST_MESSAGE(line);
    BOOST_TEST_REQUIRE((cudaDeviceSynchronize() == cudaSuccess), cudaGetErrorString(cudaGetLastError()));
  }
}

/// Heads that fit one block and those that need a cluster, filled and not; batches that fill the last block and
/// not, and many of them.
template <Precision P>
void compare_all(tolerance most) {
  device::basic_cuda<P> gpu;
  const auto each = [&](index batch, index time, index heads, index head) {
    compare<float>(gpu, batch, time, heads, head, most);
  };
  for (const index head : {1, 3, 8, 48, 64, 70, 96, 100, 136, 144}) each(3, 9, 2, head);
  for (const index head : {150, 192, 250, 288, 320, 384}) each(5, 6, 1, head);
  each(1, 1, 1, 144), each(2, 2, 4, 16), each(16, 64, 4, 144), each(7, 40, 4, 64);
  for (const index head : {48, 96, 144}) each(141, 5, 4, head);
  each(30, 5, 4, 144), each(37, 4, 8, 160), each(12, 5, 8, 300);
  each(2, 4, 1, 400), each(3, 3, 1, 768);
  // Steps: of rows that begin at 16 bytes, and that do not.
  for (const index batch : {1, 3, 17, 64, 65})
    for (const bool apart : {false, true})
      for (const index head : {16, 144, 400}) compare<float>(gpu, batch, 1, 4, head, most, apart);
}

}  // namespace

BOOST_AUTO_TEST_CASE(in_double) {
  device::cuda gpu;
  compare<double>(gpu, 3, 9, 2, 48, {1e-12, 1e-12});
}
BOOST_AUTO_TEST_CASE(in_float) {
  compare_all<fp32>({testing::cuda_tolerance::slstm.fp32, testing::cuda_tolerance::slstm.fp32});
}
BOOST_AUTO_TEST_CASE(with_rounded_products) {
  compare_all<bf16_mixed>({testing::cuda_tolerance::slstm.bf16, testing::cuda_tolerance::slstm.bf16});
}

/// Tokens one by one, with the state in between, are the whole.
BOOST_AUTO_TEST_CASE_TEMPLATE(step_by_step, P, float_precisions) {
  for (const index head : {64, 144, 384}) {
    device::basic_cuda<P> gpu;
    cell<double> input(4, 6, 2, head, false);
    input.random(7);
    input.start.clear();
    cell<float> whole(4, 6, 2, head, false), step(4, 1, 2, head, false);
    whole.copy(input);
    step.recurrent.copy(input.recurrent), step.bias.copy(input.bias), step.state.copy(input.state);
    whole.forward(gpu);
    for (index t = 0; t < 6; ++t) {
      step.raw.fill([&](index b, index c) { return input.raw.at(b * 6 + t, c); });
      step.forward(gpu);
      double difference = 0;
      for (index b = 0; b < 4; ++b)
        for (index c = 0; c < 8 * head; ++c)
          difference =
              std::max<double>(difference, std::abs(step.states.at(b, c) - whole.states.at(b * 6 + t, c)));
      const auto most = testing::cuda_tolerance::slstm_steps;
      BOOST_TEST(difference <= (std::is_same_v<P, bf16_mixed> ? most.bf16 : most.fp32),
                 "head " << head << ", step " << t << ": off by " << difference);
    }
  }
}

}  // namespace distil_xlstm
