#include "gpu.hpp"

#include <distil_xlstm/device/cuda.cuh>
#include <distil_xlstm/testing/tolerances.hpp>

#include "../comparison/forms.hpp"

// mLSTM's kernels on the GPU against the CPU in double.
namespace distil_xlstm {
namespace {

using testing::mlstm_run;
using run = mlstm_run<float>;
using oracle = mlstm_run<double>;

constexpr double infinity = std::numeric_limits<double>::infinity();

device::cpu& cpu() {
  static device::cpu device(8);
  return device;
}
template <class P>
device::basic_cuda<P>& gpu() {
  static device::basic_cuda<P> device;
  return device;
}

/// The same inputs, rounded to float first, so that both sides see the same numbers.
oracle in_double(const run& r) {
  oracle o;
  o.batch = r.batch, o.time = r.time, o.shape = r.shape, o.start = r.start, o.beta = r.beta;
  const auto wide = [](const std::vector<float>& x) { return std::vector<double>(x.begin(), x.end()); };
  o.q = wide(r.q), o.k = wide(r.k), o.v = wide(r.v), o.i = wide(r.i), o.f = wide(r.f), o.dh = wide(r.dh);
  o.c = wide(r.c), o.n = wide(r.n), o.m = wide(r.m), o.dstate = wide(r.dstate);
  return o;
}

/// ||a - b||
template <class T>
double difference(const std::vector<T>& a, const std::vector<double>& b) {
  double sum = 0;
  for (std::size_t i = 0; i < b.size(); ++i) {
    const double each = static_cast<double>(a[i]) - b[i];
    sum += each * each;
  }
  return std::sqrt(sum);
}
double norm_of(const std::vector<double>& a) { return difference(std::vector<double>(a.size()), a); }
/// ||a - b|| / ||b||, which one row that chose the other side of |r| >= exp(-mu) does not spoil.
template <class T>
double distance(const std::vector<T>& a, const std::vector<double>& b) {
  const double norm = norm_of(b);
  return norm > 0 ? difference(a, b) / norm : difference(a, b);
}

/// Every tensor of both directions. Float: max |difference| / max |reference|, at most 1e-5, or three times
/// what the CPU's float is off by where gates are so large that no float is closer. bf16: the norms', at most
/// 1e-2, or four times what rounding q, k, v and dh moves the reference by (much, where r is near 0). df is a
/// sum of differences over the rest of the document, in which rounded states do not cancel. A gradient that is 0 but
/// for rounding, as dq, dk and di of a mean of one value are, has no size of its own: it is what is left of
/// differences dh.v - dh.h, and is measured by ||dh||.
constexpr auto limits = testing::cuda_tolerance::mlstm;
constexpr double float_limit = limits.fp32, bf16_limit = limits.bf16,
                 bf16_df_limit = testing::cuda_tolerance::mlstm_forget;
template <class Run>
Run rounded(Run r) {
  for (auto* x : {&r.q, &r.k, &r.v, &r.dh})
    for (auto& e : *x) e = static_cast<float>(bf16(static_cast<float>(e)));
  return r;
}
template <class P>
void compare_in(const run& inputs, const std::string& what) {
  constexpr bool bf16 = is_bf16<P>;
  oracle want = in_double(inputs), moved = rounded(want);
  run got = inputs, other = inputs;
  for (auto* o : {&want, &moved}) o->forward(cpu()), o->backward(cpu());
  other.forward(cpu()), other.backward(cpu());
  got.forward(gpu<P>()), got.backward(gpu<P>());
  const auto names = run::results();
  const auto wants = oracle::results();
  // r, that a mean is divided by, is a sum of so few products.
  const bool narrow_mean = inputs.shape.normaliser == mlstm_normaliser::sum && inputs.shape.query < 16;
  constexpr double narrow = testing::cuda_tolerance::narrow_mlstm;
  std::string all;
  for (std::size_t i = 0; i < names.size(); ++i) {
    const auto x = names[i].second;
    const auto& w = want.*wants[i].second;
    const bool vanishes = names[i].first[0] == 'd' && norm_of(w) <= (bf16 ? 1e-5 : 1e-9) * norm_of(want.dh);
    const auto off = [&](const auto& from) {
      if (vanishes) return difference(from, w) / norm_of(want.dh);
      return bf16 ? distance(from, w) : testing::relative_error(from, w);
    };
    const double error = off(got.*x);
    const double rounding = names[i].first == std::string("df") ? bf16_df_limit
                            : narrow_mean                       ? narrow
                                                                : bf16_limit;
    const double limit =
        bf16 ? std::max(rounding, 4 * off(moved.*wants[i].second)) : std::max(float_limit, 3 * off(other.*x));
    char text[64];
    std::snprintf(text, sizeof text, " %s %.1e (%.0e)", names[i].first, error, limit);
    all += text;
    BOOST_TEST(error <= limit, what << (bf16 ? ", bf16: " : ", float: ") << names[i].first << " is off by "
                                    << error << ", at most " << limit);
  }
  BOOST_TEST_MESSAGE(what << (bf16 ? ", bf16:" : ", float:") << all);
}
/// Float on these inputs; bf16 on keys and queries that agree more, so that r is seldom near 0.
void compare(run inputs, const std::string& what) {
  compare_in<fp32>(inputs, what);
  for (auto* x : {&inputs.q, &inputs.k})
    for (auto& e : *x) e += 0.5f;
  compare_in<bf16_mixed>(inputs, what);
}
std::string name_of(index batch, index time, index query, index value) {
  return std::to_string(batch) + " x " + std::to_string(time) + ", " + std::to_string(query) + " / " +
         std::to_string(value);
}
/// Documents that begin at these places of every sequence.
void begin_documents(run& r, std::initializer_list<index> places) {
  for (index b = 0; b < r.batch; ++b) {
    std::int32_t start = -1;
    for (index t = 0; t < r.time; ++t) {
      for (const index p : places)
        if (p + b == t) start = static_cast<std::int32_t>(t);
      r.start[static_cast<std::size_t>(b * r.time + t)] = start;
    }
  }
}

}  // namespace

BOOST_AUTO_TEST_CASE(lengths_and_head_sizes) {
  for (const index time : {1, 2, 63, 64, 65, 127, 128, 129, 300})
    for (const index head : {1, 3, 48, 96, 144, 288})
      compare(run::random(2, time, {2, head, head}, time / 2), name_of(2, time, head, head));
}
BOOST_AUTO_TEST_CASE(values_wider_and_narrower_than_keys) {
  for (const auto& [query, value] : {std::pair<index, index>{3, 7}, {48, 96}, {96, 17}, {128, 256}, {200, 72}})
    for (const double empty_m : {-infinity, 0.0})
      compare(run::random(2, 200, {3, query, value, 64, empty_m}, 100), name_of(2, 200, query, value));
}
BOOST_AUTO_TEST_CASE(large_heads) {
  compare(run::random(1, 520, {1, 384, 384}, 130), name_of(1, 520, 384, 384));
  compare(run::random(1, 260, {2, 256, 512}, 0), name_of(1, 260, 256, 512));
}
/// Heads of `query` and `value` numbers, multiples of 128, that are more blocks of 128 columns than the GPU has
/// multiprocessors, in every kernel: then a block makes 256.
index heads_for_wide_blocks(index query, index value) {
  return gpu<bf16_mixed>().multiprocessors() / (query / 128 * (value / 128)) + 1;
}
/// The last two so many that a block makes 256 columns of heads of that many or a few less, or of two such tiles.
BOOST_AUTO_TEST_CASE(many_large_heads) {
  auto r = run::random(8, 260, {2, 288, 288}, 0);
  begin_documents(r, {5, 126, 127, 128, 200, 259});
  compare(r, name_of(8, 260, 288, 288) + ", many documents");
  compare(run::random(24, 129, {1, 272, 281}, 60), name_of(24, 129, 272, 281));
  compare(run::random(8, 130, {1, 576, 288}, 0), name_of(8, 130, 576, 288));
  const index square = std::max<index>(36, heads_for_wide_blocks(256, 256)),
              oblong = std::max<index>(20, heads_for_wide_blocks(256, 512));
  compare(run::random(square, 130, {1, 256, 256}, 100), name_of(square, 130, 256, 256));
  compare(run::random(oblong, 130, {1, 250, 512}, 0), name_of(oblong, 130, 250, 512));
}
/// Of one sequence a block makes fewer columns, of which it makes the same numbers.
BOOST_AUTO_TEST_CASE(heads_of_256_do_not_see_their_neighbours) {
  const index batch = heads_for_wide_blocks(256, 256) / 2 + 1;
  run all = run::random(batch, 260, {2, 256, 256}, 100), alone = all;
  alone.batch = 1;
  for (const auto x :
       {&run::q, &run::k, &run::v, &run::i, &run::f, &run::dh, &run::c, &run::n, &run::m, &run::dstate})
    (alone.*x).resize((all.*x).size() / static_cast<std::size_t>(batch));
  alone.start.resize(260);
  for (auto* r : {&all, &alone}) r->forward(gpu<bf16_mixed>()), r->backward(gpu<bf16_mixed>());
  for (const auto& [name, x] : run::results()) {
    std::vector<float> first = all.*x;
    first.resize((alone.*x).size());
    const bool gate = x == &run::di || x == &run::df;  // sums over the columns, in another order
    const double error = testing::relative_error(alone.*x, first);
    BOOST_TEST(error <= (gate ? 1e-4 : 0), name << " is off by " << error);
  }
}
BOOST_AUTO_TEST_CASE(tapes_of_other_chunks) {
  for (const index chunk : {1, 17, 128, 256, 1000})
    for (const index head : {5, 64, 96})
      compare(run::random(1, 300, {2, head, head, chunk}, 77),
              name_of(1, 300, head, head) + ", a tape of chunks of " + std::to_string(chunk));
}
BOOST_AUTO_TEST_CASE(many_documents) {
  for (const double empty_m : {-infinity, 0.0}) {
    auto r = run::random(3, 400, {2, 32, 32, 64, empty_m}, 0);
    begin_documents(r, {0, 1, 5, 64, 127, 128, 129, 200, 255, 256, 398});
    compare(r, "many documents");
    begin_documents(r, {300});
    compare(r, "one late document");
    // More positions than the gates' smaller blocks have.
    auto longer = run::random(2, 700, {2, 32, 32, 64, empty_m}, 0);
    begin_documents(longer, {37, 140, 384, 511, 512, 513, 699});
    compare(longer, "many documents of 700 tokens");
  }
}
BOOST_AUTO_TEST_CASE(the_stabilisers_gradient) {
  // So large an epsilon makes the stabiliser's part as large as the others.
  for (const double empty_m : {-infinity, 0.0}) {
    mlstm_shape shape{2, 32, 32, 64, empty_m, 0.5};
    auto r = run::random(2, 500, shape, 0);
    begin_documents(r, {37, 140, 384});
    compare(r, "a large epsilon");
  }
}
BOOST_AUTO_TEST_CASE(gates_of_every_size) {
  for (const double size : {10.0, 40.0}) {
    auto r = run::random(2, 300, {2, 32, 32}, 111, 5);
    for (auto& x : r.i) x *= static_cast<float>(size);
    for (auto& x : r.f) x *= static_cast<float>(size / 2);
    compare_in<fp32>(r, "gates times " + std::to_string(size));
  }
}
BOOST_AUTO_TEST_CASE(an_empty_state_and_no_documents) {
  auto r = run::random(2, 300, {2, 64, 64}, 300);
  r.empty_state();
  compare(r, "an empty state");
}
mlstm_shape mean_of(index heads, index query, index value, double epsilon = 0, index value_group = 1) {
  mlstm_shape shape{heads, query, value};
  shape.epsilon = epsilon, shape.normaliser = mlstm_normaliser::sum, shape.value_group = value_group;
  return shape;
}
/// Then the kernels leave out products with what is 0 and do not write it: memory that held NaN shows whether any of it
/// is read. The same bits as of a gradient of zeros.
BOOST_AUTO_TEST_CASE_TEMPLATE(no_state_enters_and_no_gradient_of_one, P, float_precisions) {
  for (const mlstm_shape& shape :
       {mlstm_shape{2, 288, 288}, mlstm_shape{2, 60, 50}, mlstm_shape{1, 128, 256},
        mlstm_shape{heads_for_wide_blocks(256, 256), 256, 256}, mean_of(6, 128, 64, 0, 3)})
    for (const index time : {1, 128, 300, 512}) {
      if (shape.heads > 9 && time > 300) continue;
      for (const bool empty : {true, false}) {
        run none = run::random(2, time, shape, time / 2);
        if (empty) none.empty_state();
        run nan = none, zeros = none;
        for (auto* x : {&nan.q, &nan.k, &nan.v, &nan.dh}) std::fill(x->begin(), x->end(), NAN);
        none.dstate.clear();
        std::fill(zeros.dstate.begin(), zeros.dstate.end(), 0.0f);
        const std::string what = name_of(2, time, shape.query, shape.value) + (empty ? ", from nothing" : "");
        for (run* r : {&nan, &none, &nan, &zeros}) {
          run alone = *r;  // of which no backward follows
          r->forward(gpu<P>()), r->backward(gpu<P>());
          if (time > 1) alone.forward(gpu<P>(), testing::kernels::fused, false);
          if (time > 1 && r != &nan) BOOST_TEST((alone.h == r->h), what << ": h differs without a tape");
        }
        for (const auto& [name, x] : run::results())
          if (x != &run::dstate) BOOST_TEST((none.*x == zeros.*x), what << ": " << name << " differs");
        if (shape.heads > 9 || time == 1) continue;
        run inputs = run::random(2, time, shape, time / 2);
        if (empty) inputs.empty_state();
        inputs.dstate.clear();
        for (auto* x : {&inputs.q, &inputs.k})
          for (auto& e : *x) e += is_bf16<P> ? 0.5f : 0.0f;
        compare_in<P>(inputs, what + ", without a gradient of the last state");
      }
    }
}
BOOST_AUTO_TEST_CASE(a_mean_of_the_values) {
  for (const auto& [query, value] : {std::pair<index, index>{128, 64}, {3, 7}, {64, 64}, {96, 17}})
    for (const double epsilon : {0.0, 1e-6})
      for (const index time : {1, 130, 300}) {
        auto r = run::random(2, time, mean_of(3, query, value, epsilon), time / 2);
        const std::string what = "a mean, " + name_of(2, time, query, value);
        compare(r, what);
        begin_documents(r, {0, 5, 64, 127, 128, 129, 257});
        compare(r, what + ", documents");
        r.empty_state();
        compare(r, what + ", from nothing");
      }
  compare(run::random(2, 512, mean_of(9, 128, 64), 200), "a mean, a linearised student's shape");
}
/// Against the CPU, and against copies of the values: but for dv, bit for bit.
BOOST_AUTO_TEST_CASE(heads_that_share_values) {
  const auto check = [](auto& device, const auto& r, double limit, const std::string& what) {
    using T = std::remove_cvref_t<decltype(r.v[0])>;
    using operand = operand_t<decltype(device), T>;
    for (const auto& errors :
         {testing::sharing_errors<T>(device, r), testing::sharing_errors<operand>(device, r)})
      for (const auto& e : errors)
        BOOST_TEST(e.error <= (e.name == "shared values: dv" ? limit : 0),
                   what << ", " << e.name << ": " << e.error);
  };
  for (const mlstm_shape& shape :
       {mean_of(6, 128, 64, 0, 3), mean_of(6, 128, 64, 0, 2), mean_of(9, 120, 61, 0, 3),
        mean_of(4, 24, 8, 1e-6, 4), mean_of(6, 96, 17, 0, 3), mean_of(4, 64, 128, 0, 2)})
    for (const index time : {1, 128, 130, 512})
      for (const float beta : {0.0f, -0.5f}) {
        auto r = run::random(2, time, shape, time / 2);
        r.beta = beta;
        const std::string what = std::to_string(shape.value_group) + " heads share values, " +
                                 name_of(2, time, shape.query, shape.value);
        if (time > 1) compare(r, what);  // roundings of so few numbers as one token's are no mean
        check(gpu<fp32>(), r, float_limit, what + ", float");
        check(gpu<bf16_mixed>(), r, float_limit, what + ", bf16");
        if (time == 130) check(gpu<fp32>(), in_double(r), 1e-12, what + ", double");
      }
}
BOOST_AUTO_TEST_CASE_TEMPLATE(a_mean_of_next_to_nothing_is_finite, P, float_precisions) {
  for (const float left : {1e-12f, 1e-25f, 0.0f}) {
    auto r = run::random(2, 140, mean_of(2, 16, 8), 30);
    r.empty_state();
    auto much = r;
    for (float& x : r.q) x *= left;
    r.forward(gpu<P>()), r.backward(gpu<P>());
    for (const auto& [name, x] : run::results())
      BOOST_TEST(std::all_of((r.*x).begin(), (r.*x).end(), [](float y) { return std::isfinite(y); }),
                 name << " of " << left);
    if (left != 1e-12f) continue;
    much.forward(gpu<P>());  // a mean is the same, however little there is
    BOOST_TEST(testing::relative_error(r.h, much.h) <= (is_bf16<P> ? 2e-2 : 1e-5));
  }
}
BOOST_AUTO_TEST_CASE(long_sequences) { compare(run::random(1, 6000, {2, 64, 64}, 3001), "6000 tokens"); }
BOOST_AUTO_TEST_CASE(steps_are_the_whole) {
  for (const index batch : {1, 64})
    for (const mlstm_shape& shape :
         {mlstm_shape{4, 288, 288}, mlstm_shape{4, 3, 5}, mlstm_shape{4, 16, 36}, mlstm_shape{4, 1, 1},
          mlstm_shape{2, 320, 20}, mlstm_shape{4, 320, 40}, mean_of(9, 128, 64), mean_of(2, 3, 5, 1e-6),
          mean_of(9, 128, 64, 0, 3), mean_of(4, 3, 5, 0, 2)}) {
      const index time = 5, query = shape.query, value = shape.value;
      run all = run::random(batch, time, shape, 3);
      oracle want = in_double(all);
      want.forward(cpu());
      run steps = all;
      for (index t = 0; t < time; ++t) {
        run step = all.part(t, t + 1);
        for (const auto x : run::memory()) step.*x = steps.*x;
        step.forward(gpu<bf16_mixed>(), testing::kernels::fused, false);
        testing::detail::append_rows(steps.h, step.h, batch);
        for (const auto x : run::memory()) steps.*x = step.*x;
      }
      const std::string what = "steps of " + name_of(batch, time, query, value);
      for (const auto& [name, error] : {std::pair{"h", testing::relative_error(steps.h, want.h)},
                                        {"c", testing::relative_error(steps.c, want.c)},
                                        {"n", testing::relative_error(steps.n, want.n)},
                                        {"m", testing::relative_error(steps.m, want.m)}}) {
        BOOST_TEST_MESSAGE(what << ": " << name << ' ' << error);
        BOOST_TEST(error <= float_limit, what << ": " << name << " is off by " << error);
      }
    }
}
BOOST_AUTO_TEST_CASE(a_step_is_the_same_whoever_is_beside_it) {
  for (const mlstm_shape& shape : {mlstm_shape{4, 288, 288}, mlstm_shape{2, 24, 20}, mlstm_shape{2, 320, 20},
                                   mlstm_shape{4, 320, 40}, mean_of(9, 128, 64)}) {
    run all = run::random(64, 1, shape, 1), alone = all;
    alone.batch = 1;
    const auto each_of_one = {&run::q, &run::k, &run::v, &run::i, &run::f, &run::c, &run::n, &run::m};
    for (const auto x : each_of_one) (alone.*x).resize((all.*x).size() / 64);
    alone.start.resize(1);
    for (auto* r : {&all, &alone}) r->forward(gpu<bf16_mixed>(), testing::kernels::fused, false);
    for (const auto x : {&run::h, &run::c, &run::n, &run::m})
      BOOST_TEST(std::equal((alone.*x).begin(), (alone.*x).end(), (all.*x).begin()));
  }
}
BOOST_AUTO_TEST_CASE_TEMPLATE(nothing_crosses_a_document_boundary, P, float_precisions) {
  for (const index begins : {64, 128, 150}) {
    run a = run::random(1, 300, {2, 48, 48}, begins), b = a;
    b.h.clear();
    rng random(77);
    const auto disturb = [&](std::vector<float>& x, index rows) {
      const index width = static_cast<index>(x.size()) / 300;
      for (index e = 0; e < rows * width; ++e)
        x[static_cast<std::size_t>(e)] = static_cast<float>(30 * random.normal());
    };
    for (const auto x : run::inputs()) disturb(b.*x, begins);
    for (const auto x : run::memory())
      for (auto& e : b.*x) e = static_cast<float>(random.normal());
    for (auto* r : {&a, &b}) r->forward(gpu<P>()), r->backward(gpu<P>());
    for (const auto& [name, x] : run::results()) {
      if (name == std::string("dstate")) continue;
      const auto &p = a.*x, &q = b.*x;
      const std::size_t from = run::by_row(x) ? p.size() / 300 * static_cast<std::size_t>(begins) : 0;
      double most = 0;
      for (std::size_t e = from; e < p.size(); ++e)
        most = std::max(most, std::isnan(q[e]) ? infinity : std::abs(static_cast<double>(p[e]) - q[e]));
      BOOST_TEST(most == 0, "begins at " << begins << ": " << name << " moves by " << most);
    }
  }
}
BOOST_AUTO_TEST_CASE_TEMPLATE(every_run_gives_the_same_bits, P, float_precisions) {
  for (const index head : {96, 288}) {
    run a = run::random(4, 512, {4, head, head}, 200), b = a;
    for (auto* r : {&a, &b}) r->forward(gpu<P>()), r->backward(gpu<P>());
    for (const auto& [name, x] : run::results()) BOOST_TEST((a.*x == b.*x), name << " differs");
  }
}
/// Operands of the products' type are read where they lie, or copied where rows, heads or times do not fit: the same
/// numbers give the same bits, however they are stored, but for dq and dk, which are stored alike, rounded.
BOOST_AUTO_TEST_CASE_TEMPLATE(operands_as_products_take_them, P, float_precisions) {
  using operand = operand_t<device::basic_cuda<P>, float>;
  static_assert(std::is_same_v<operand, bf16> == is_bf16<P>);
  for (const index time : {1, 128, 130, 512})
    for (const mlstm_shape& shape :
         {mean_of(3, 128, 64), mean_of(6, 128, 64, 0, 3), mean_of(2, 24, 8), mlstm_shape{2, 96, 96},
          mlstm_shape{1, 128, 256}, mlstm_shape{4, 288, 288}}) {
      run want = rounded(run::random(2, time, shape, time / 2));
      const run inputs = want;
      want.slack = 3;
      want.forward(gpu<P>()), want.backward(gpu<P>());
      for (auto* x : {&want.dq, &want.dk})
        for (float& e : *x) e = static_cast<operand>(e);
      for (const index slack : {0, 3, 8}) {
        run got = inputs;
        got.slack = slack;
        got.template forward<operand>(gpu<P>()), got.template backward<operand>(gpu<P>());
        for (const auto& [name, x] : run::results())
          BOOST_TEST((got.*x == want.*x), name << " differs: " << name_of(2, time, shape.query, shape.value)
                                               << ", rows " << slack << " apart");
      }
    }
  for (const mlstm_shape& shape :
       {mean_of(9, 128, 64), mean_of(9, 128, 64, 0, 3), mlstm_shape{2, 3, 5}}) {  // a step
    run want = rounded(run::random(3, 1, shape, 1)), got = want;
    want.forward(gpu<P>(), testing::kernels::fused, false);
    got.template forward<operand>(gpu<P>(), testing::kernels::fused, false);
    for (const auto x : {&run::h, &run::c, &run::n, &run::m})
      BOOST_TEST(testing::relative_error(got.*x, want.*x) <= float_limit);
  }
}
BOOST_AUTO_TEST_CASE_TEMPLATE(columns_of_wider_rows, P, float_precisions) {
  constexpr bool bf16 = is_bf16<P>;
  // Every input and output a few columns of wider rows, at any offset; results start as NaN.
  for (const index offset : {0, 1, 2, 4, 7})
    for (const index head : {9, 32}) {
      auto& device = gpu<P>();
      run packed = run::random(2, 150, {2, head, head}, 60);
      for (auto* x : {&packed.q, &packed.k})
        for (auto& e : *x) e += 0.5f;
      oracle want = in_double(packed);
      want.forward(cpu()), want.backward(cpu());
      const index rows = packed.rows(), heads = 2;
      const auto wide = [&](const std::vector<float>& x) {
        const index width = static_cast<index>(x.size()) / rows, stride = width + offset + 3;
        std::vector<float> out(static_cast<std::size_t>(rows * stride), NAN);
        for (index r = 0; r < rows; ++r)
          std::copy_n(x.begin() + r * width, width, out.begin() + r * stride + offset);
        return out;
      };
      std::vector<float> q = wide(packed.q), k = wide(packed.k), v = wide(packed.v), i = wide(packed.i),
                         f = wide(packed.f), dh = wide(packed.dh);
      const std::vector<float> by_head(packed.v.size(), NAN), by_gate(packed.i.size(), NAN);
      std::vector<float> h = wide(by_head), dq = h, dk = h, dv = h, di = wide(by_gate), df = di;
      testing::mirrored on(device);
      std::vector<float> kept(static_cast<std::size_t>(2 * heads * 3 * packed.shape.chunk_state_size()), NAN);
      const auto part = [&](std::vector<float>& x, index width) {
        return on.matrix(x, rows).columns(offset, width);
      };
      const index w = heads * head;
      const auto aq = part(q, w), ak = part(k, w), av = part(v, w), ah = part(h, w), adh = part(dh, w),
                 ai = part(i, heads), af = part(f, heads), adq = part(dq, w), adk = part(dk, w),
                 adv = part(dv, w), adi = part(di, heads), adf = part(df, heads);
      const mlstm_state<float> state{
          {on(packed.c), heads * head * head}, {on(packed.n), heads * head}, {on(packed.m), heads}};
      const sequence_view seq{2, 150, on(packed.start)};
      float* tape = on(kept);
      mlstm_forward(device, mlstm_arguments<float>{seq, packed.shape, aq, ak, av, ai, af, ah, state, tape});
      mlstm_backward_arguments<float> a{seq, packed.shape, aq,  ak,  av,  ai,  af, ah,
                                        adh, tape,         adq, adk, adv, adi, adf};
      a.dstate = on(packed.dstate), a.last = state;
      mlstm_backward(device, a);
      on.back();
      for (const auto& [name, x, y] : {std::tuple{"h", &h, &want.h},
                                       {"dq", &dq, &want.dq},
                                       {"dk", &dk, &want.dk},
                                       {"dv", &dv, &want.dv},
                                       {"di", &di, &want.di},
                                       {"df", &df, &want.df}}) {
        const index width = static_cast<index>(y->size()) / rows, stride = static_cast<index>(x->size()) / rows;
        std::vector<float> there;
        bool untouched = true;
        for (index r = 0; r < rows; ++r)
          for (index c = 0; c < stride; ++c) {
            const float e = (*x)[static_cast<std::size_t>(r * stride + c)];
            if (c >= offset && c < offset + width)
              there.push_back(e);
            else
              untouched = untouched && std::isnan(e);
          }
        const double error = bf16 ? distance(there, *y) : testing::relative_error(there, *y);
        BOOST_TEST(error <= (bf16 ? bf16_df_limit : float_limit),
                   name << " at offset " << offset << ", heads of " << head << (bf16 ? ", bf16" : "")
                        << ": off by " << error);
        BOOST_TEST(untouched, name << " writes beside its columns");
      }
    }
}
BOOST_AUTO_TEST_CASE(double_takes_the_reference) {
  oracle a = oracle::random(2, 70, {2, 8, 8}, 33), b = a;
  a.forward(cpu()), a.backward(cpu());
  b.forward(gpu<fp32>()), b.backward(gpu<fp32>());
  for (const auto& [name, x] : oracle::results())
    BOOST_TEST(testing::relative_error(b.*x, a.*x) <= 1e-12, name);
}

}  // namespace distil_xlstm
