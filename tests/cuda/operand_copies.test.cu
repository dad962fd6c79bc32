#include "compare.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <distil_xlstm/block/attention.hpp>
#include <distil_xlstm/block/causal_conv1d.hpp>
#include <distil_xlstm/block/hybrid_attention.hpp>
#include <distil_xlstm/block/mlstm.hpp>
#include <distil_xlstm/block/norm.hpp>
#include <distil_xlstm/block/residual.hpp>
#include <distil_xlstm/block/sequential.hpp>
#include <distil_xlstm/block/swiglu.hpp>
#include <distil_xlstm/device/rounded_weights.hpp>
#include <distil_xlstm/model/memory.hpp>
#include <distil_xlstm/testing/tolerances.hpp>

// What is kept in bfloat16 for products: copies of operands, weights that are held, what blocks round for them.
namespace distil_xlstm {
namespace {

/// Doubles a matrix.
struct doubled {
  using scalar = float;
  matrix_view<float> x;
  template <class V>
  DISTIL_XLSTM_HD void operator()(index r, index c) const {
    math::store<V>(x.row(r) + c, V(2) * math::load<V>(x.row(r) + c));
  }
};

struct twice {
  template <class V>
  struct both {
    V first, second;
  };
  template <class V>
  DISTIL_XLSTM_HD both<V> operator()(V x) const {
    return {x + x, x + x};
  }
};

/// y, dx and the gradients of `block` over a tape that knows or does not how small operands are, and the tape's size.
/// Nothing is written behind the tape.
template <class B, class D>
std::pair<std::vector<double>, index> over_tape(D& gpu, const B& block, sequence_view seq, bool half) {
  using numbers = on_device<float, D>;
  constexpr index guard = 1 << 16;
  constexpr double untouched = 0.25;
  const auto described = [&](layout<float> l) {
    l.half_operands(half);
    auto k = block.tape(l, seq);
    return std::pair{std::move(k), l.size()};
  };
  layout<float> measure;
  block.params(measure);
  const index taken = described(layout<float>()).second, size = seq.rows() * block.width_in();
  const numbers tape(gpu, std::vector<double>(static_cast<std::size_t>(taken + guard), untouched)),
      w(gpu, random_numbers(measure.size(), 1, 0.2)), g(gpu, random_numbers(measure.size(), 4)),
      x(gpu, random_numbers(size, 2)), dy(gpu, random_numbers(size, 3)), y(gpu, size), dx(gpu, size);
  const auto k = described(layout<float>(tape.data())).first;
  layout<float> weights(w.data()), gradients(g.data());
  const auto p = block.params(weights), q = block.params(gradients);
  state_memory<B, float, D> state(gpu, block, seq.batch, 0);
  const auto wide = [&](const numbers& m) {
    return matrix_view<float>(m.data(), seq.rows(), block.width_in());
  };
  block.forward(gpu, seq, p, state.views(), k, matrix_view<const float>(wide(x)), wide(y));
  block.backward(gpu, seq, p, q, k, matrix_view<const float>(wide(x)), matrix_view<const float>(wide(dy)),
                 wide(dx));
  const auto left = tape.numbers();
  BOOST_TEST(std::all_of(left.begin() + taken, left.end(), [](double n) { return n == untouched; }));
  std::vector<double> all;
  for (const numbers* m : {&y, &dx, &g}) {
    const auto more = m->numbers();
    all.insert(all.end(), more.begin(), more.end());
  }
  return {all, taken};
}

/// A product of the rows u that `write(gpu, norm, params, tape, x, u)` leaves is the same whether the norm is for
/// products or not.
template <class F>
void check_norm_for_products(const F& write) {
  using D = device::basic_cuda<bf16_mixed>;
  using numbers = on_device<float, D>;
  constexpr index n = 48;
  D gpu;
  for (const auto& [rows, width] : {std::array<index, 2>{64, 40}, {64, 576}, {63, 40}, {64, 42}, {3, 40}}) {
    const numbers x(gpu, random_numbers(rows * width, 1)), weight(gpu, random_numbers(width, 2)),
        w(gpu, random_numbers(n * width, 3)), statistics(gpu, 2 * rows), u(gpu, rows * width);
    const auto product = [&, rows = rows, width = width](bool for_products) {
      const numbers y(gpu, rows * n);
      const matrix_view<float> normed(u.data(), rows, width);
      write(gpu, rms_norm<>{width, 1, 1e-6, for_products}, norm_params<float*>{weight.data()},
            norm_tape<float>{statistics.data()}, matrix_view<const float>(x.data(), rows, width), normed);
      gemm(gpu, matrix_view<const float>(normed), transposed(matrix_view<const float>(w.data(), n, width)),
           matrix_view<float>(y.data(), rows, n));
      return y.numbers();
    };
    BOOST_TEST((product(true) == product(false)), rows << " rows of " << width);
  }
}

}  // namespace

// Weights that are held are rounded once, and products give the same bits.
BOOST_AUTO_TEST_CASE(products_of_weights_that_are_held) {
  using D = device::basic_cuda<bf16_mixed>;
  using numbers = on_device<float, D>;
  struct map_of_rows {
    index rows, in, out, at;  // at: of the weight's first number
  };
  constexpr index heads = 3;
  D gpu;
  for (const auto& [rows, in, out, at] : {map_of_rows{300, 64, 48, 0},
                                          {300, 64, 48, 16},
                                          {300, 64, 48, 4},
                                          {300, 64, 27, 0},
                                          {300, 20, 48, 0},
                                          {301, 96, 24, 8},
                                          {40, 64, 48, 16},
                                          {5, 64, 48, 0},
                                          {1024, 576, 576, 16},
                                          {1024, 576, 192, 48},
                                          {1024, 576, 960, 32},
                                          {1024, 576, 3072, 16},
                                          {1024, 1536, 576, 80}}) {
    const index all = at + in * out + 16, part = out / heads;
    const auto first = random_numbers(all, 1), second = random_numbers(all, 2);
    auto doubled = first;
    for (double& x : doubled) x *= 2;
    const numbers w(gpu, first), twice(gpu, doubled), x(gpu, random_numbers(rows * in, 3)),
        dy(gpu, random_numbers(rows * out, 4)), y(gpu, rows * out), dx(gpu, rows * in), sum(gpu, rows * out);
    const matrix_view<const float> weight(w.data() + at, out, in), above(dy.data(), rows, out),
        below(x.data(), rows, in), head(weight.data, part, in);
    const auto forward = [&, rows = rows, out = out] {
      gemm(gpu, below, transposed(weight), matrix_view<float>(y.data(), rows, out));
      return y.numbers();
    };
    const auto backward = [&, rows = rows, in = in] {
      gemm(gpu, above, weight, matrix_view<float>(dx.data(), rows, in));
      return dx.numbers();
    };
    const auto parts = [&, rows = rows, in = in, out = out] {  // one below another
      gemm_batched(gpu, heads, below, 0, transposed(head), part * in,
                   matrix_view<float>(y.data(), rows, part, out), part);
      return y.numbers();
    };
    const auto plus = [&, rows = rows, out = out] {
      gemm_plus(gpu, below, transposed(weight), above, matrix_view<float>(sum.data(), rows, out));
      return sum.numbers();
    };
    const auto results = [&] { return std::vector{forward(), backward(), parts(), plus()}; };
    const std::string what = std::to_string(rows) + " rows, " + std::to_string(in) + " to " +
                             std::to_string(out) + ", from number " + std::to_string(at);
    rounded_weights<float, D> rounded(gpu, all);
    const auto held_results = [&] {
      rounded.round(gpu, w.data());
      const auto held = rounded.hold(gpu, w.data());
      return results();
    };
    const auto before = results();
    BOOST_TEST((held_results() == before), what);
    BOOST_TEST((results() == before), what);
    // Another copy would be seen, by all products but those that round no weights, or need zeros beside them.
    const auto twice_of = [](std::vector<double> numbers) {
      for (double& n : numbers) n *= 2;
      return numbers;
    };
    {
      rounded.round(gpu, twice.data());
      const auto held = rounded.hold(gpu, w.data());
      const bool found = in % 8 == 0 && out % 8 == 0 && at % 8 == 0;
      BOOST_TEST((forward() == (found && rows > 64 ? twice_of(before[0]) : before[0])), what);
      BOOST_TEST((backward() == (found && rows > 16 ? twice_of(before[1]) : before[1])), what);
      BOOST_TEST((parts() == (found && rows > 64 ? twice_of(before[2]) : before[2])), what);
      BOOST_TEST(((plus() == before[3]) == !(found && rows > 64)), what);
      // Nothing writes what is held.
      const matrix_view<float> written(w.data() + at, out, in);
      BOOST_CHECK_THROW(gpu.copy(w.data(), twice.data(), 4), error);
      BOOST_CHECK_THROW(transform(gpu, written, math::identity{}, weight), error);
      BOOST_CHECK_THROW(gemm(gpu, transposed(above), below, written), error);
    }
    const std::vector<float> others(second.begin(), second.end());
    gpu.upload(w.data(), others.data(), w.bytes());
    const auto after = results();
    BOOST_TEST((after != before), what);
    BOOST_TEST((held_results() == after), what);
  }
}

// An operand's copy in bfloat16 serves the products that follow one another, and no product after a write.
BOOST_AUTO_TEST_CASE(a_product_sees_what_was_written_before_it) {
  using D = device::basic_cuda<bf16_mixed>;
  using numbers = on_device<float, D>;
  constexpr index m = 64, n = 48, k = 40;
  D gpu, fresh;
  const numbers x(gpu, random_numbers(m * k, 1)), other(gpu, random_numbers(m * k, 2)),
      w(gpu, random_numbers(k * n, 3)), square(gpu, random_numbers(k * k, 4)), y(gpu, m * n);
  const matrix_view<float> rows(x.data(), m, k);
  const auto product = [&] {
    gemm(gpu, matrix_view<const float>(rows), matrix_view<const float>(w.data(), k, n),
         matrix_view<float>(y.data(), m, n));
  };
  const std::vector<float> host(static_cast<std::size_t>(m * k), 0.5f);
  const auto check = [&](const char* what, const auto& write) {
    product();
    write();
    product();
    const numbers there(fresh, x.numbers()), weight(fresh, w.numbers()), want(fresh, m * n);
    gemm(fresh, matrix_view<const float>(there.data(), m, k), matrix_view<const float>(weight.data(), k, n),
         matrix_view<float>(want.data(), m, n));
    BOOST_TEST((y.numbers() == want.numbers()), what);
  };
  check("map", [&] { map(gpu, m, k, doubled{rows}); });
  check("transform", [&] { transform(gpu, rows, math::plus{}, rows, rows); });
  check("transform of a column", [&] {
    const auto last = rows.columns(k - 1, 1);
    transform(gpu, outputs{matrix_view<float>(y.data(), m, 1), last}, twice{}, last);
  });
  check("copy", [&] { gpu.copy(x.data(), other.data(), x.bytes()); });
  check("product", [&] {
    gemm(gpu, matrix_view<const float>(other.data(), m, k), matrix_view<const float>(square.data(), k, k),
         rows);
  });
  check("upload", [&] { gpu.upload(x.data(), host.data(), x.bytes()); });
  const auto graph = gpu.record([&] { map(gpu, m, k, doubled{rows}); });
  check("graph", [&] { gpu.launch(graph); });
  gpu.discard(graph);
}

// Rounded where it is written is rounded as a product would.
BOOST_AUTO_TEST_CASE(a_convolution_s_gradient_is_stored_as_products_read_it) {
  using D = device::basic_cuda<bf16_mixed>;
  D gpu;
  for (const auto& [width, window] : {std::array<index, 2>{1152, 4}, {64, 3}, {60, 4}, {30, 4}, {24, 5}}) {
    const sequence_view seq{2, 70};
    const index rows = seq.rows(), size = rows * width;
    const auto random = [&](index n, std::uint64_t seed) {
      return on_device<float, D>(gpu, random_numbers(n, seed));
    };
    const auto w = random(width * window, 1), x = random(size, 2), dy = random(size, 3), b = random(width, 4),
               addend = random(size, 5), before = random(2 * (window - 1) * width, 6), dx = random(size, 7),
               dw = random(width * window, 8), db = random(width, 9);
    const on_device<bf16, D> rounded(gpu, random_numbers(size, 10));
    const auto run = [&, width = width, window = window](auto to) {
      const auto whole = [&](const on_device<float, D>& m) {
        return matrix_view<const float>(m.data(), rows, width);
      };
      causal_conv1d{width, window}.backward(
          gpu, seq, conv_params<const float*>{w.data(), b.data()}, conv_params<float*>{dw.data(), db.data()},
          conv_tape<float>{before.data()}, whole(x), whole(dy), to, whole(addend), true);
    };
    run(matrix_view<float>(dx.data(), rows, width));
    run(matrix_view<bf16>(rounded.data(), rows, width));
    auto want = dx.numbers();
    for (auto& v : want) v = bf16(static_cast<float>(v));
    BOOST_TEST((rounded.numbers() == want), "a window of " << window << " over " << width << " columns");
  }
}

// A norm for products gives what they would have rounded themselves.
BOOST_AUTO_TEST_CASE(a_norm_rounds_for_products) {
  for (const bool written : {false, true})
    check_norm_for_products([written](auto& gpu, const rms_norm<>& norm, const auto& p, const auto& k,
                                      matrix_view<const float> x, matrix_view<float> u) {
      norm.forward(gpu, p, k, x, u);
      if (written) transform(gpu, u.columns(3, 1), math::times{}, u.columns(3, 1), u.columns(4, 1));
    });
}

// A norm's gradient, with what is added to it, as well.
BOOST_AUTO_TEST_CASE(a_norms_gradient_rounds_for_products) {
  check_norm_for_products([](auto& gpu, const rms_norm<>& norm, const auto& p, const auto& k,
                             matrix_view<const float> x, matrix_view<float> u) {
    using numbers = on_device<float, device::basic_cuda<bf16_mixed>>;
    const numbers dy(gpu, random_numbers(x.size(), 4)), skip(gpu, random_numbers(x.size(), 5)),
        dw(gpu, random_numbers(x.cols, 6));
    norm.forward(gpu, p, k, x, u);
    norm.backward(gpu, p, norm_params<float*>{dw.data()}, k, x,
                  matrix_view<const float>(dy.data(), x.rows, x.cols), u,
                  matrix_view<const float>(skip.data(), x.rows, x.cols));
  });
}

// With products in bfloat16 all that the tape holds is rounded, too; weights may lie one behind the other or not.
BOOST_AUTO_TEST_CASE(a_feed_forward_rounds_what_it_makes) {
  const auto run = []<class T, class D>(D& d, T, const swiglu& block, index rows, index apart) {
    using numbers = on_device<T, D>;
    const index size = block.width * block.inner, all = 3 * size + apart, across = rows * block.inner;
    const numbers w(d, random_numbers(all, 1, 0.3)), x(d, random_numbers(rows * block.width, 2)),
        dy(d, random_numbers(rows * block.width, 3)), gate(d, across), up(d, across), y(d, rows * block.width),
        dx(d, rows * block.width), g(d, random_numbers(all, 4));
    const auto weights = [&](T* at) {
      const auto one = [&](T* first, index out, index in) {
        return linear_params<matrix_view<T>, T*>{{first, out, in}};
      };
      return swiglu_params<matrix_view<T>, T*>{one(at, block.inner, block.width),
                                               one(at + size + apart, block.inner, block.width),
                                               one(at + 2 * size + apart, block.width, block.inner)};
    };
    const swiglu_tape<T> k{{gate.data(), rows, block.inner}, {up.data(), rows, block.inner}, {}};
    const matrix_view<const T> in(x.data(), rows, block.width), above(dy.data(), rows, block.width);
    block.forward(d, sequence_view{1, rows}, weights(w.data()), no_state{}, k, in,
                  matrix_view<T>(y.data(), rows, block.width));
    block.backward(d, sequence_view{1, rows}, weights(w.data()), weights(g.data()), k, in, above,
                   matrix_view<T>(dx.data(), rows, block.width));
    std::vector results{y.numbers(), dx.numbers(), g.numbers()};
    if constexpr (std::is_same_v<operand_t<D, T>, bf16>) {
      std::vector<bf16> kept(static_cast<std::size_t>(2 * across));
      d.download(kept.data(), gate.data(), 2 * across * index{sizeof(bf16)});
      results.emplace_back(kept.begin(), kept.end());
    } else {
      const auto gates = gate.numbers(), ups = up.numbers();
      auto& both = results.emplace_back();
      for (index r = 0; r < rows; ++r)
        for (const auto& m : {gates, ups})
          both.insert(both.end(), m.begin() + r * block.inner, m.begin() + (r + 1) * block.inner);
    }
    return results;
  };
  device::basic_cuda<bf16_mixed> gpu;
  device::cpu cpu(2);
  for (const auto& [rows, width, inner] :
       {std::array<index, 3>{40, 48, 80}, {300, 64, 192}, {33, 20, 27}, {2, 8, 16}})
    for (const index apart : {0, 8}) {
      const swiglu block{width, inner};
      const auto got = run(gpu, float(), block, rows, apart);
      check_all(std::to_string(rows) + " rows, " + std::to_string(width) + " to " + std::to_string(inner), got,
                run(cpu, double(), block, rows, apart), testing::cuda_tolerance::feed_forward);
      BOOST_TEST((run(gpu, float(), block, rows, apart) == got));
    }
}

// A norm's rows that products alone read are stored as their operand, and what comes of it is the same; the
// residual's sums lie in a product and in the norm's gradient.
BOOST_AUTO_TEST_CASE(a_residual_is_as_its_parts_are) {
  using D = device::basic_cuda<bf16_mixed>;
  using numbers = on_device<float, D>;
  D gpu;
  constexpr index rows = 72, width = 96, inner = 160, size = width + 3 * width * inner;
  const residual block{sequential{rms_norm<>{width, 1, 1e-6, true}, swiglu{width, inner}}};
  const sequence_view seq{1, rows};
  layout<float> measure;
  block.tape(measure, seq);
  const numbers weights(gpu, random_numbers(size, 1, 0.2)), x(gpu, random_numbers(rows * width, 2)),
      dy(gpu, random_numbers(rows * width, 3)), g(gpu, random_numbers(size, 4)),
      g2(gpu, random_numbers(size, 4)), y(gpu, rows * width), dx(gpu, rows * width), y2(gpu, rows * width),
      dx2(gpu, rows * width), u(gpu, rows * width), du(gpu, rows * width), tape(gpu, measure.size()),
      tape2(gpu, measure.size());
  const auto wide = [&](const numbers& m) { return matrix_view<float>(m.data(), rows, width); };
  const auto bound = [&](const numbers& m) {
    layout<float> l(m.data());
    return block.params(l);
  };
  layout<float> l(tape.data()), l2(tape2.data());
  const auto k = block.tape(l, seq), k2 = block.tape(l2, seq);
  const auto p = bound(weights), q = bound(g), q2 = bound(g2);
  block.forward(gpu, seq, p, std::tuple(no_state{}, no_state{}), k, wide(x), wide(y));
  block.backward(gpu, seq, p, q, k, wide(x), wide(dy), wide(dx));

  const auto& [norm, feed] = block.inner.blocks;
  const auto& feeding = std::get<1>(k2).inner;
  norm.forward(gpu, std::get<0>(p), std::get<0>(k2).inner, wide(x), wide(u));
  feed.forward(gpu, seq, std::get<1>(p), no_state{}, feeding, wide(u), wide(y2));
  transform(gpu, wide(y2), math::plus{}, wide(y2), wide(x));
  feed.backward(gpu, seq, std::get<1>(p), std::get<1>(q2), feeding, wide(u), matrix_view<const float>(wide(dy)),
                wide(du));
  norm.backward(gpu, std::get<0>(p), std::get<0>(q2), std::get<0>(k2).inner, wide(x), wide(du), wide(dx2));
  transform(gpu, wide(dx2), math::plus{}, wide(dx2), wide(dy));
  check_close("y", y.numbers(), y2.numbers(), 1e-5);
  check_close("dx", dx.numbers(), dx2.numbers(), 1e-6);
  BOOST_TEST((g.numbers() == g2.numbers()));
}

// The gradients of q, k and v by one product, where their weights lie one below another, or by one each.
BOOST_AUTO_TEST_CASE(weights_of_attention_lie_together_or_apart) {
  using D = device::basic_cuda<bf16_mixed>;
  using numbers = on_device<float, D>;
  D gpu;
  const attention block{.width = 96, .heads = 2, .kv_heads = 1, .head_dim = 32};
  const sequence_view seq{2, 36};
  layout<float> weights, tape;
  block.params(weights), block.tape(tape, seq);
  const index size = seq.rows() * block.width;
  const numbers w(gpu, random_numbers(weights.size(), 1, 0.2)), x(gpu, random_numbers(size, 2)),
      dy(gpu, random_numbers(size, 3));
  const auto wide = [&](const numbers& m) { return matrix_view<float>(m.data(), seq.rows(), block.width); };
  const auto gradients = [&](bool apart) {
    const numbers elsewhere(gpu, w.numbers()), g(gpu, random_numbers(weights.size(), 4)),
        memory(gpu, tape.size()), y(gpu, size), dx(gpu, size);
    const auto bound = [&](const numbers& m) {
      layout<float> l(m.data());
      return block.params(l);
    };
    layout<float> l(memory.data());
    const auto k = block.tape(l, seq);
    auto p = bound(w);
    if (apart) p.k_proj = bound(elsewhere).k_proj;
    block.forward(gpu, seq, p, attention_state<float>{}, k, wide(x), wide(y));
    block.backward(gpu, seq, p, bound(g), k, wide(x), wide(dy), wide(dx));
    auto all = dx.numbers();
    const auto more = g.numbers();
    all.insert(all.end(), more.begin(), more.end());
    return all;
  };
  check_close("gradients", gradients(false), gradients(true), 1e-5);
}

// A tape that knows how small operands are has less memory for the same, and holds the same.
BOOST_AUTO_TEST_CASE(a_tape_of_half_operands) {
  device::basic_cuda<bf16_mixed> gpu;
  const rms_norm<> norm{.width = 96, .groups = 1, .epsilon = 1e-5, .for_products = true};
  hybrid_attention hybrid;
  hybrid.base.width = 96, hybrid.base.heads = 2, hybrid.base.kv_heads = 1, hybrid.base.head_dim = 64;
  hybrid.base.window = 16;
  // `operands`: those of a row that only a tape that knows keeps, for they are made again from one that does not. They
  // are not counted.
  const auto check = [&](const char* what, const auto& block, index operands = 0) {
    for (const index time : {128, 300}) {
      const auto [want, whole] = over_tape(gpu, block, {2, time}, false);
      const auto [got, size] = over_tape(gpu, block, {2, time}, true);
      const index same = size - 2 * time * operands / 2;
      BOOST_TEST(same < whole, what << ": " << same << " of " << whole);
      BOOST_TEST((got == want), what << " of " << time);
      BOOST_TEST(std::all_of(got.begin(), got.end(), [](double n) { return std::isfinite(n); }), what);
    }
  };
  check("mLSTM", mlstm{.width = 96, .heads = 2, .inner = 288});
  check("mLSTM with biases", mlstm{.width = 96, .heads = 2, .inner = 192, .bias = true});
  check("SwiGLU", sequential{norm, swiglu{96, 161}});
  // Features of queries and keys, and values.
  check("a hybrid", sequential{norm, hybrid}, 2 * 2 * 2 * hybrid.features + hybrid.base.head_dim);
}

}  // namespace distil_xlstm
