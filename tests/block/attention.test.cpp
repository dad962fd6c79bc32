#include <boost/test/unit_test.hpp>

#include <distil_xlstm/block/attention.hpp>
#include <distil_xlstm/device/cpu.hpp>
#include <distil_xlstm/model/memory.hpp>
#include <distil_xlstm/testing/gradcheck.hpp>

#include "../refused.hpp"

namespace distil_xlstm {
namespace {

device::cpu& cpu() {
  static device::cpu device(2);
  return device;
}

/// q, k, v, a past of other lengths for each sequence, and an output gradient, all random. With a window the past
/// lies in a ring.
template <class T>
struct problem {
  sequence_view seq;
  attention_shape shape;
  index capacity;  ///< tokens that the past has room for
  std::vector<T> q, k, v, keys, values, length, y, dy, dq, dk, dv;

  problem(sequence_view s, attention_shape a, index past, std::uint64_t seed = 3)
      : seq(s), shape(a), capacity(past > 0 && a.window > 0 ? a.window + a.sinks : past) {
    rng random(seed);
    auto make = [&](index n) {
      std::vector<T> out(static_cast<std::size_t>(n));
      for (auto& x : out) x = static_cast<T>(random.normal());
      return out;
    };
    const index kv = a.kv_heads * a.width, all = a.heads * a.width;
    q = make(s.rows() * all), k = make(s.rows() * kv), v = make(s.rows() * kv), dy = make(s.rows() * all);
    keys = make(s.batch * capacity * kv), values = make(s.batch * capacity * kv);
    for (index b = 0; b < s.batch; ++b) length.push_back(static_cast<T>(past > b ? past - b : 0));
    y.resize(q.size()), dq.resize(q.size()), dk.resize(k.size()), dv.resize(k.size());
  }
  attention_arguments<T> forward() {
    const index all = shape.heads * shape.width, kv = shape.kv_heads * shape.width, rows = seq.rows();
    attention_arguments<T> a{seq,
                             shape,
                             {q.data(), rows, all},
                             {k.data(), rows, kv},
                             {v.data(), rows, kv},
                             {},
                             {y.data(), rows, all}};
    if (capacity > 0)
      a.past = {{keys.data(), capacity * kv}, {values.data(), capacity * kv}, {length.data(), 1}};
    return a;
  }
  attention_backward_arguments<T> backward() {
    const index all = shape.heads * shape.width, kv = shape.kv_heads * shape.width, rows = seq.rows();
    return {forward(),
            {dy.data(), rows, all},
            {dq.data(), rows, all},
            {dk.data(), rows, kv},
            {dv.data(), rows, kv}};
  }
  /// The formula, in double, with nothing clever.
  std::vector<double> naive() const {
    std::vector<double> out(y.size());
    const index n = shape.width, kv = shape.kv_heads * n, all = shape.heads * n;
    for (index b = 0; b < seq.batch; ++b)
      for (index t = 0; t < seq.time; ++t)
        for (index h = 0; h < shape.heads; ++h) {
          const index g = h / shape.group();
          const index past = capacity > 0 ? static_cast<index>(length[static_cast<std::size_t>(b)]) : 0;
          const index begin = seq.document_start(b, t), start = begin < 0 ? -past : begin;
          std::vector<double> w;
          std::vector<const T*> rows;
          double sum = 0;
          for (index s = start; s <= t; ++s) {
            const index window = shape.window, sinks = shape.sinks;
            if (window > 0 && s <= t - window && s >= start + sinks) continue;
            index place = past + s;
            if (window > 0 && place >= sinks) place = sinks + (place - sinks) % window;
            const index at = (s < 0 ? b * capacity + place : b * seq.time + s) * kv + g * n;
            const T* key = (s < 0 ? keys.data() : k.data()) + at;
            rows.push_back((s < 0 ? values.data() : v.data()) + at);
            double score = 0;
            for (index c = 0; c < n; ++c)
              score += static_cast<double>(q[static_cast<std::size_t>((b * seq.time + t) * all + h * n + c)]) *
                       static_cast<double>(key[c]);
            w.push_back(std::exp(score / std::sqrt(static_cast<double>(n))));
            sum += w.back();
          }
          for (std::size_t s = 0; s < w.size(); ++s)
            for (index c = 0; c < n; ++c)
              out[static_cast<std::size_t>((b * seq.time + t) * all + h * n + c)] +=
                  w[s] / sum * static_cast<double>(rows[s][c]);
        }
    return out;
  }
};

/// Documents of changing length; the first goes on from the past where the time allows.
std::vector<std::int32_t> some_starts(index batch, index time) {
  std::vector<std::int32_t> start;
  for (index b = 0; b < batch; ++b) {
    std::int32_t at = b % 2 ? 0 : -1;
    for (index t = 0; t < time; ++t) {
      if (t > 0 && t % (23 + 31 * b) == 0) at = static_cast<std::int32_t>(t);
      start.push_back(at);
    }
  }
  return start;
}

template <class T>
double apart(const std::vector<T>& a, const std::vector<T>& b) {
  return testing::relative_error(a.data(), b.data(), static_cast<index>(a.size()));
}

template <class T>
void fused_is_oracle(double limit) {
  for (const attention_shape shape :
       {attention_shape{6, 2, 64}, attention_shape{3, 3, 10}, attention_shape{9, 3, 16},
        attention_shape{4, 2, 12, 1}, attention_shape{3, 1, 10, 7, 3}, attention_shape{2, 2, 16, 64, 4},
        attention_shape{6, 2, 8, 20, 33}, attention_shape{2, 1, 6, 1000, 2}})
    for (const index time : {index{1}, index{2}, index{7}, index{64}, index{131}})
      for (const index past : {index{0}, index{5}, index{90}})
        for (const bool documents : {false, true}) {
          const auto start = some_starts(2, time);
          problem<T> a({2, time, documents ? start.data() : nullptr}, shape, past), b = a;
          attention_forward(cpu(), a.forward());
          distil_xlstm::attention_forward(cpu(), b.forward());
          attention_backward(cpu(), a.backward());
          distil_xlstm::attention_backward(cpu(), b.backward());
          const auto want = a.naive();
          BOOST_TEST_CONTEXT("heads " << shape.heads << ", width " << shape.width << ", window " << shape.window
                                      << " and " << shape.sinks << ", time " << time << ", past " << past
                                      << ", documents " << documents) {
            BOOST_TEST(testing::relative_error(a.y.data(), want.data(), static_cast<index>(want.size())) <=
                       limit);
            BOOST_TEST(apart(a.y, b.y) <= limit);
            BOOST_TEST(apart(a.dq, b.dq) <= 10 * limit);
            BOOST_TEST(apart(a.dk, b.dk) <= 10 * limit);
            BOOST_TEST(apart(a.dv, b.dv) <= 10 * limit);
          }
        }
}

const attention grouped{
    .width = 12, .heads = 4, .kv_heads = 2, .head_dim = 6, .bias = true, .output_bias = true};

}  // namespace

BOOST_AUTO_TEST_CASE(the_fused_form_is_the_formula) {
  fused_is_oracle<double>(1e-13);
  fused_is_oracle<float>(3e-6);
}

BOOST_AUTO_TEST_CASE(a_window_that_holds_the_text_is_none) {
  for (const index time : {1, 40, 150}) {
    const auto start = some_starts(2, time);
    problem<float> a({2, time, start.data()}, {6, 2, 16}, 40), b = a, c = a;
    b.shape.window = time + 40, b.shape.sinks = 3;  // a ring, where the past lies as it did
    attention_forward(cpu(), a.forward()), attention_backward(cpu(), a.backward());
    b.capacity = 43 + time, b.keys.resize(static_cast<std::size_t>(2 * b.capacity * 32)), b.values = b.keys;
    for (index i = 0; i < 2 * 40 * 32; ++i) {
      const auto from = static_cast<std::size_t>(i),
                 to = static_cast<std::size_t>(i / 1280 * b.capacity * 32 + i % 1280);
      b.keys[to] = c.keys[from], b.values[to] = c.values[from];
    }
    attention_forward(cpu(), b.forward()), attention_backward(cpu(), b.backward());
    BOOST_TEST((a.y == b.y && a.dq == b.dq && a.dk == b.dk && a.dv == b.dv));
    c.shape.window = time + 38;  // of the first sequence's last token all but the first key
    c.keys = b.keys, c.values = b.values, c.capacity = b.capacity;
    attention_forward(cpu(), c.forward());
    BOOST_TEST((time > 1 || a.y != c.y));
  }
}

BOOST_AUTO_TEST_CASE(how_far_heads_reach) {
  for (const index past : {0, 5})
    for (const bool documents : {false, true}) {
      const index time = 150, beyond = 20, sinks = 3, from = 40, heads = 4, width = 8;
      const auto start = some_starts(2, time);
      problem<double> p({2, time, documents ? start.data() : nullptr}, {heads, 2, width}, past);
      const auto a = p.forward();
      std::vector<double> mass(heads), distance(heads);
      for (index b = 0; b < 2; ++b)
        for (index t = from; t < time; ++t)
          for (index h = 0; h < heads; ++h) {
            double all = 0, far = 0, way = 0;
            for (index s = a.first(b, t); s <= t; ++s) {
              double score = 0;
              for (index c = 0; c < width; ++c)
                score += a.q.row(b * time + t)[h * width + c] * a.key(b, h / 2, s)[c] / std::sqrt(8.0);
              const double w = std::exp(score);
              all += w;
              if (s <= t - beyond && s >= a.first(b, t) + sinks)
                far += w, way += w * static_cast<double>(t - s);
            }
            mass[static_cast<std::size_t>(h)] += far / all, distance[static_cast<std::size_t>(h)] += way / all;
          }
      const auto own = attention_reach(cpu(), a, beyond, sinks, from);
      std::vector<double> rows(static_cast<std::size_t>(2 * time * 2 * heads)), plain = rows;
      const auto sums = [&](std::vector<double>& to) {
        return attention_reach_arguments<double>{a, beyond, sinks, from, {to.data(), 2 * time, 2 * heads}};
      };
      write_attention_reach(cpu(), sums(rows)), distil_xlstm::write_attention_reach(cpu(), sums(plain));
      BOOST_TEST(apart(rows, plain) <= 1e-13);
      BOOST_REQUIRE(own.size() == 4u);
      for (std::size_t h = 0; h < 4; ++h) {
        BOOST_TEST(std::abs(own[h].mass - mass[h] / (2 * (time - from))) <= 1e-13);
        BOOST_TEST(std::abs(own[h].distance - distance[h] / mass[h]) <= 1e-11);
      }
      BOOST_CHECK_THROW(attention_reach(cpu(), a, beyond, sinks, time), error);
    }
}

BOOST_AUTO_TEST_CASE(how_far_a_block_reaches) {
  attention block = grouped;
  block.window = 4, block.sinks = 1;
  testing::harness<attention, double, device::cpu> h(block, cpu(), {2, 30});
  h.forward();
  for (const head_reach& all : block.reach(cpu(), h.seq, h.k, 0, 0, 0)) {
    BOOST_TEST(std::abs(all.mass - 1) < 1e-13);
    BOOST_TEST((all.distance > 1 && all.distance < 29));
  }
  for (const head_reach& far : block.reach(cpu(), h.seq, h.k, 4, 1, 15)) {
    BOOST_TEST((far.mass > 0 && far.mass < 1));
    BOOST_TEST((far.distance >= 4 && far.distance < 29));
  }
}

BOOST_AUTO_TEST_CASE(rotary_rotates_pairs) {
  testing::harness<rotary, double, device::cpu> h(rotary{4, 4, 100.0}, cpu(), sequence_view{1, 3});
  h.forward();
  const double *x = h.x.data() + 8, *y = h.y.data() + 8;  // position 2
  for (int i = 0; i < 2; ++i) {
    const double angle = 2 * std::pow(100.0, -i / 2.0);
    BOOST_TEST(std::abs(y[i] - (x[i] * std::cos(angle) - x[i + 2] * std::sin(angle))) < 1e-15);
    BOOST_TEST(std::abs(y[i + 2] - (x[i + 2] * std::cos(angle) + x[i] * std::sin(angle))) < 1e-15);
  }
  BOOST_TEST(h.states.data()[0] == 3);
}

BOOST_AUTO_TEST_CASE(a_document_does_not_see_another) {
  for (const index capacity : {0, 200}) {
    attention block = grouped;
    block.capacity = capacity;
    const index time = 150, cut = 70;
    std::vector<std::int32_t> start(time, -1);
    std::fill(start.begin() + cut, start.end(), static_cast<std::int32_t>(cut));
    testing::harness<attention, float, device::cpu> h(block, cpu(), {1, time, start.data()});
    h.forward();
    const std::vector<float> before(h.y.data(), h.y.data() + h.y.size());
    h.reset_state();
    for (index i = 0; i < cut * 12; ++i) h.x.data()[i] = -2 * h.x.data()[i] + 1;
    h.forward();
    BOOST_TEST(std::equal(before.begin() + cut * 12, before.end(), h.y.data() + cut * 12));
    BOOST_TEST(!std::equal(before.begin(), before.begin() + cut * 12, h.y.data()));
  }
}

BOOST_AUTO_TEST_CASE(a_window_needs_the_same_memory_for_any_text) {
  attention block = grouped;
  block.window = 9, block.sinks = 2;
  state_memory<attention, float, device::cpu> state(cpu(), block, 2), declared(cpu(), block, 2, 1000);
  BOOST_TEST(state.size() == declared.size());
  BOOST_TEST(declared.capacity() == 0);
  layout<float> measure;
  block.sinks = -1;
  BOOST_CHECK_THROW(block.params(measure), error);
  block.sinks = 1, block.window = 0;
  BOOST_CHECK_EXCEPTION(block.params(measure), error, [](const error& e) {
    return std::string(e.what()) == "attention: 1 sinks beside a window of 0 tokens are not possible";
  });
}

BOOST_AUTO_TEST_CASE(the_capacity_is_declared) {
  attention block = grouped;
  block.capacity = 12;
  state_memory<attention, float, device::cpu> state(cpu(), block, 1);
  state.advance({1, 7});
  BOOST_CHECK_EXCEPTION(state.advance({1, 7}), error, [](const error& e) {
    return std::string(e.what()).find("would hold 14 tokens, the capacity of its state is 12") !=
           std::string::npos;
  });
  BOOST_TEST(state.length(0) == 7);
  const std::vector<std::int32_t> begins(7, 0);
  state.advance({1, 7, begins.data()});  // a new document needs only its own place
  BOOST_TEST(state.length(0) == 7);
}

BOOST_AUTO_TEST_CASE(a_state_that_backward_would_not_know_is_refused) {
  const weight_memory<attention, float, device::cpu> weights(cpu(), grouped);
  state_memory<attention, float, device::cpu> state(cpu(), grouped, 1, 20);
  std::vector<float> x(48), y(48);
  for (const bool transient : {true, false}) {
    const tape_memory<attention, float, device::cpu> tape(cpu(), grouped, 1, 4, transient);
    const auto forward = [&] {
      grouped.forward<float>(cpu(), {1, 4}, weights.views(), state.views(), tape.views(), {x.data(), 4, 12},
                             {y.data(), 4, 12});
    };
    if (transient)
      forward();
    else
      refused(forward, "attention: a state of 20 tokens before a backward needs a block of that capacity");
  }
}

}  // namespace distil_xlstm
