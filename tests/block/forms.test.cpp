#define BOOST_TEST_MODULE forms
#include <boost/test/unit_test.hpp>

#include <distil_xlstm/block/mlstm.hpp>
#include <distil_xlstm/block/slstm.hpp>
#include <distil_xlstm/device/cpu_mlstm.hpp>
#include <distil_xlstm/device/cpu_slstm.hpp>
#include <distil_xlstm/testing/gradcheck.hpp>

namespace distil_xlstm {
namespace {

device::cpu& cpu() {
  static device::cpu device(2);
  return device;
}

template <class B>
using double_harness = testing::harness<B, double, device::cpu>;

/// Outputs of `h` when its rows are given in pieces of `part` tokens, the state carried.
template <class B>
std::vector<double> in_pieces(B block, double_harness<B>& whole, index part) {
  const index batch = whole.seq.batch, time = whole.seq.time, in = block.width_in(), out = block.width_out();
  std::vector<double> y(static_cast<std::size_t>(batch * time * out));
  double_harness<B>* carry = nullptr;
  std::vector<std::unique_ptr<double_harness<B>>> runs;
  for (index t0 = 0; t0 < time; t0 += part) {
    const index n = std::min(part, time - t0);
    std::vector<std::int32_t> start(static_cast<std::size_t>(batch * n), -1);
    for (index b = 0; b < batch; ++b)
      for (index t = 0; t < n; ++t) {
        const index s = whole.seq.document_start(b, t0 + t);
        start[static_cast<std::size_t>(b * n + t)] = static_cast<std::int32_t>(s >= t0 ? s - t0 : -1);
      }
    auto& h = *runs.emplace_back(std::make_unique<double_harness<B>>(block, cpu(), sequence_view{batch, n, start.data()}));
    std::copy_n(whole.weights.data(), whole.weights.size(), h.weights.data());
    if (carry) std::copy_n(carry->states.data(), carry->states.size(), h.states.data());
    for (index b = 0; b < batch; ++b)
      std::copy_n(whole.x.data() + (b * time + t0) * in, n * in, h.x.data() + b * n * in);
    h.forward();
    for (index b = 0; b < batch; ++b)
      std::copy_n(h.y.data() + b * n * out, n * out, y.data() + (b * time + t0) * out);
    carry = &h;
  }
  whole.reset();
  return y;
}

template <class B>
void pieces_are_the_whole(B block, index time, double limit = 1e-12) {
  std::vector<std::int32_t> start(static_cast<std::size_t>(2 * time), -1);
  for (index t = time / 3; t < time; ++t) start[static_cast<std::size_t>(t)] = static_cast<std::int32_t>(time / 3);
  double_harness<B> whole(block, cpu(), {2, time, start.data()});
  whole.reset();
  whole.forward();
  const std::vector<double> y(whole.y.data(), whole.y.data() + whole.y.size());
  for (index part : {index{1}, time / 2 + 1, index{7}}) {
    const auto pieces = in_pieces(block, whole, part);
    BOOST_TEST_CONTEXT("time " << time << " in pieces of " << part)
    BOOST_TEST(testing::relative_error(pieces.data(), y.data(), static_cast<index>(y.size())) <= limit);
  }
}

mlstm small_mlstm(index inner, index heads, index chunk = 64, double empty_m = -INFINITY) {
  return {.width = 8, .heads = heads, .inner = inner, .qkv_block = inner % 4 ? 1 : 4, .chunk = chunk, .empty_m = empty_m};
}

}  // namespace

BOOST_AUTO_TEST_CASE(steps_are_chunks_are_the_whole) {
  for (index time : {1, 2, 63, 64, 65, 500}) {
    pieces_are_the_whole(small_mlstm(32, 2), time);
    pieces_are_the_whole(small_mlstm(32, 2, 16), time);
    pieces_are_the_whole(slstm{12, 2}, time);
  }
  pieces_are_the_whole(small_mlstm(32, 2, 64, 0.0), 130);
}
BOOST_AUTO_TEST_CASE(any_head_size) {
  for (index head : {1, 3, 48, 96, 144, 288}) {
    pieces_are_the_whole(small_mlstm(head, 1), 70);
    pieces_are_the_whole(slstm{head, 1}, 20);
  }
}

BOOST_AUTO_TEST_CASE(chunks_are_the_parallel_form) {
  for (index chunk : {1, 5, 64}) {
    double_harness<mlstm> a(small_mlstm(32, 2, chunk), cpu(), {2, 70}), b(small_mlstm(32, 2, 70), cpu(), {2, 70});
    for (auto* h : {&a, &b}) h->reset(), h->forward(), h->backward();
    BOOST_TEST(testing::relative_error(a.y.data(), b.y.data(), a.y.size()) <= 1e-12);
    BOOST_TEST(testing::relative_error(a.dx.data(), b.dx.data(), a.dx.size()) <= 1e-11);
    for (const auto& e : a.names)
      BOOST_TEST(testing::relative_error(a.gradients.data() + e.offset, b.gradients.data() + e.offset, e.size) <= 1e-10);
  }
}

BOOST_AUTO_TEST_CASE(fused_cells_are_their_defaults) {
  const index batch = 3, time = 37, heads = 2, head = 20, width = heads * head, rows = batch * time;
  rng random(9);
  auto fill = [&](std::vector<double>& v, index n, double scale = 1) {
    v.resize(static_cast<std::size_t>(n));
    for (auto& x : v) x = scale * random.normal();
  };
  std::vector<std::int32_t> start(static_cast<std::size_t>(rows), -1);
  for (index t = 15; t < time; ++t) start[static_cast<std::size_t>(time + t)] = 15;
  const sequence_view seq{batch, time, start.data()};
  std::vector<double> r, bias, raw, dh;
  fill(r, heads * 4 * head * head, 0.2), fill(bias, 4 * width), fill(raw, rows * 4 * width, 2), fill(dh, rows * width);
  struct result {
    std::vector<double> raw, states, initial, state, carry;
  } out[2];
  for (int fused = 0; fused < 2; ++fused) {
    auto& o = out[fused];
    o.raw = raw;
    o.states.resize(static_cast<std::size_t>(rows * 4 * width)), o.initial.resize(static_cast<std::size_t>(batch * 4 * width));
    o.state.assign(static_cast<std::size_t>(batch * 4 * width), 0.5), o.carry.resize(static_cast<std::size_t>(batch * 3 * width));
    const slstm_arguments<double> f{seq, heads, head, r.data(), bias.data(), {o.raw.data(), rows, 4 * width},
                                    {o.states.data(), rows, 4 * width}, o.initial.data(), {o.state.data(), 4 * width}};
    const slstm_backward_arguments<double> b{seq, heads, head, r.data(), f.raw, f.states, f.initial, {dh.data(), rows, width}};
    if (fused)
      device::slstm_forward(cpu(), f), device::slstm_backward(cpu(), b, o.carry.data());
    else
      distil_xlstm::slstm_forward(cpu(), f), distil_xlstm::slstm_backward(cpu(), b, o.carry.data());
  }
  for (auto member : {&result::raw, &result::states, &result::initial, &result::state, &result::carry}) {
    const auto &a = out[1].*member, &b = out[0].*member;
    BOOST_TEST(testing::relative_error(a.data(), b.data(), static_cast<index>(a.size())) <= 1e-12);
  }
}

BOOST_AUTO_TEST_CASE(a_million_steps_at_extreme_gates) {
  // Gates beyond what training meets: nothing overflows, and float stays by double.
  const index steps = 1000000, chunk = 1000;
  const mlstm_shape shape{1, 2, 2};
  rng random(31);
  std::vector<double> q(2 * chunk), k(2 * chunk), v(2 * chunk), i(chunk), f(chunk), h(2 * chunk);
  std::vector<float> qf(2 * chunk), kf(2 * chunk), vf(2 * chunk), in(chunk), ff(chunk), hf(2 * chunk);
  double c[4] = {}, n[2] = {}, m = -INFINITY, worst = 0, largest = 0;
  float cf[4] = {}, nf[2] = {}, mf = -INFINITY;
  for (index s = 0; s < steps; s += chunk) {
    for (std::size_t x = 0; x < q.size(); ++x)
      q[x] = qf[x] = static_cast<float>(random.normal()), k[x] = kf[x] = static_cast<float>(random.normal()),
      v[x] = vf[x] = static_cast<float>(random.normal());
    for (std::size_t x = 0; x < i.size(); ++x)
      i[x] = in[x] = static_cast<float>(random.uniform(-80, 80)), f[x] = ff[x] = static_cast<float>(random.uniform(-80, 80));
    auto run = [&]<class T>(std::vector<T>& q_, std::vector<T>& k_, std::vector<T>& v_, std::vector<T>& i_, std::vector<T>& f_,
                            std::vector<T>& h_, T* c_, T* n_, T* m_) {
      mlstm_forward(cpu(), mlstm_arguments<T>{{1, chunk}, shape, {q_.data(), chunk, 2}, {k_.data(), chunk, 2},
                                              {v_.data(), chunk, 2}, {i_.data(), chunk, 1}, {f_.data(), chunk, 1},
                                              {h_.data(), chunk, 2}, {{c_, 4}, {n_, 2}, {m_, 1}}, nullptr});
    };
    run(q, k, v, i, f, h, c, n, &m);
    run(qf, kf, vf, in, ff, hf, cf, nf, &mf);
    for (std::size_t x = 0; x < h.size(); ++x) {
      BOOST_REQUIRE(std::isfinite(h[x]) && std::isfinite(hf[x]));
      // h is a quotient of sums that may cancel: where the normaliser is small against its terms, float has no digits.
      worst = std::max(worst, std::abs(h[x] - static_cast<double>(hf[x])) / std::max(1.0, std::abs(h[x])));
      largest = std::max(largest, std::abs(h[x]));
    }
  }
  BOOST_TEST_MESSAGE("largest |h| " << largest << ", float off by " << worst);
  BOOST_TEST(worst <= 1e-3 * std::max(1.0, largest));
}

}  // namespace distil_xlstm
