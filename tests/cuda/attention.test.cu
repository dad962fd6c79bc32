#include "gpu.hpp"

#include <cmath>
#include <limits>
#include <sstream>
#include <string>
#include <vector>

#include <distil_xlstm/core/rng.hpp>
#include <distil_xlstm/device/cpu.hpp>
#include <distil_xlstm/device/cuda.cuh>
#include <distil_xlstm/testing/gradcheck.hpp>
#include <distil_xlstm/testing/tolerances.hpp>

// The GPU's attention against the CPU's in double.
namespace distil_xlstm {
namespace {

device::cpu& cpu() {
  static device::cpu device(2);
  return device;
}

/// Where the operands lie: rows longer than the heads, and the first number off the 16 bytes.
struct placement {
  index padding = 0, offset = 0;
};

/// q, k, v, a past of another length for each sequence, and an output gradient, random, on both devices. Documents
/// are `document` tokens long, and longer in each further sequence.
struct problem {
  sequence_view seq;
  attention_shape shape;
  index capacity;  ///< of the past's keys
  placement place;
  std::vector<std::int32_t> start;
  std::vector<double> q, k, v, keys, values, length, y, dy, dq, dk, dv;

  problem(index batch, index time, attention_shape a, index past, bool documents, placement p = {},
          index document = 23)
      : seq{batch, time, nullptr},
        shape(a),
        capacity(past > 0 && a.window > 0 ? a.window + a.sinks : past),
        place(p) {
    static std::uint64_t seed = 1;
    rng random(seed++);
    const auto make = [&](index n) {
      std::vector<double> out(static_cast<std::size_t>(n));
      for (double& x : out) x = static_cast<float>(random.normal());  // what both devices can hold
      return out;
    };
    const index rows = batch * time;
    q = make(rows * all()), k = make(rows * kv()), v = make(rows * kv()), dy = make(rows * all());
    keys = make(batch * capacity * kv()), values = make(batch * capacity * kv());
    for (index b = 0; b < batch; ++b) length.push_back(static_cast<double>(past > 3 * b ? past - 3 * b : 0));
    y.resize(q.size()), dq.resize(q.size()), dk.resize(k.size()), dv.resize(k.size());
    for (index b = 0; documents && b < batch; ++b) {
      std::int32_t at = b % 2 ? 0 : -1;
      for (index t = 0; t < time; ++t) {
        if (t > 0 && t % (document + 31 * b) == 0) at = static_cast<std::int32_t>(t);
        start.push_back(at);
      }
    }
  }
  index all() const { return shape.heads * shape.width; }
  index kv() const { return shape.kv_heads * shape.width; }
  std::string name() const {
    std::ostringstream what;
    what << "batch " << seq.batch << " time " << seq.time << " heads " << shape.heads << "/" << shape.kv_heads
         << " width " << shape.width << " window " << shape.window << " sinks " << shape.sinks << " past "
         << length[0] << (start.empty() ? "" : " documents") << (place.offset ? " unaligned" : "");
    return what.str();
  }

  void on_the_cpu() {
    const index rows = seq.rows();
    const sequence_view s{seq.batch, seq.time, start.empty() ? nullptr : start.data()};
    attention_arguments<double> a{s,
                                  shape,
                                  {q.data(), rows, all()},
                                  {k.data(), rows, kv()},
                                  {v.data(), rows, kv()},
                                  {},
                                  {y.data(), rows, all()}};
    if (capacity > 0)
      a.past = {{keys.data(), capacity * kv()}, {values.data(), capacity * kv()}, {length.data(), 1}};
    attention_forward(cpu(), a);
    attention_backward(cpu(), attention_backward_arguments<double>{a,
                                                                   {dy.data(), rows, all()},
                                                                   {dq.data(), rows, all()},
                                                                   {dk.data(), rows, kv()},
                                                                   {dv.data(), rows, kv()}});
  }
};

/// A matrix on the card, as `placement` says, and back; what is not written stays NaN.
template <class T>
struct placed_matrix {
  device::cuda_base& gpu;
  index rows, cols, stride, offset;
  buffer<T, device::cuda_base> memory;

  placed_matrix(device::cuda_base& d, index r, index c, placement p, const std::vector<double>* from = nullptr)
      : gpu(d), rows(r), cols(c), stride(c + p.padding), offset(p.offset), memory(d, r * stride + offset + 1) {
    std::vector<T> host(static_cast<std::size_t>(memory.size()),
                        static_cast<T>(std::numeric_limits<float>::quiet_NaN()));
    if (from)
      for (index i = 0; i < rows * cols; ++i)
        host[static_cast<std::size_t>(offset + i / cols * stride + i % cols)] =
            static_cast<T>((*from)[static_cast<std::size_t>(i)]);
    gpu.upload(memory.data(), host.data(), memory.size() * static_cast<index>(sizeof(T)));
    gpu.wait();
  }
  matrix_view<T> view() const { return {memory.data() + offset, rows, cols, stride}; }
  std::vector<T> numbers() const {
    std::vector<T> host(static_cast<std::size_t>(memory.size())), out;
    gpu.download(host.data(), memory.data(), memory.size() * static_cast<index>(sizeof(T)));
    for (index i = 0; i < rows * cols; ++i)
      out.push_back(host[static_cast<std::size_t>(offset + i / cols * stride + i % cols)]);
    return out;
  }
};

double largest_of(const std::vector<double>& a) {
  double most = 0;
  for (const double x : a) most = std::max(most, std::abs(x));
  return most;
}
/// The largest difference over `size`, and where it is; infinite where a number is no number.
struct difference {
  double error = 0;
  index at = 0;
};
template <class T>
difference apart(const std::vector<T>& a, const std::vector<double>& b, double size) {
  difference d;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double e = std::abs(static_cast<double>(a[i]) - b[i]);
    if (!(e <= d.error)) d = {std::isnan(e) ? INFINITY : e, static_cast<index>(i)};
  }
  d.error /= size;
  return d;
}

template <class T, Precision P>
void compare(device::basic_cuda<P>& gpu, problem& p, double limit, bool backward = true) {
  p.on_the_cpu();
  const index rows = p.seq.rows();
  const placement plain{}, place = p.place;
  placed_matrix<T> q(gpu, rows, p.all(), place, &p.q), k(gpu, rows, p.kv(), place, &p.k),
      v(gpu, rows, p.kv(), place, &p.v), y(gpu, rows, p.all(), place), dy(gpu, rows, p.all(), place, &p.dy),
      dq(gpu, rows, p.all(), place), dk(gpu, rows, p.kv(), place), dv(gpu, rows, p.kv(), place);
  const index held = std::max<index>(1, p.capacity);
  placed_matrix<T> keys(gpu, p.seq.batch, held * p.kv(), place, p.capacity ? &p.keys : nullptr),
      values(gpu, p.seq.batch, held * p.kv(), place, p.capacity ? &p.values : nullptr),
      length(gpu, p.seq.batch, 1, plain, &p.length);
  buffer<std::int32_t, device::cuda_base> start(gpu, rows);
  if (!p.start.empty()) gpu.upload(start.data(), p.start.data(), rows * 4);

  attention_arguments<T> a{{p.seq.batch, p.seq.time, p.start.empty() ? nullptr : start.data()},
                           p.shape,
                           q.view(),
                           k.view(),
                           v.view(),
                           {},
                           y.view()};
  if (p.capacity > 0)
    a.past = {{keys.view().data, keys.stride},
              {values.view().data, values.stride},
              {length.view().data, length.stride}};
  const std::string what = p.name() + (is_bf16<P> ? " bf16" : "");
  const auto check = [&](const char* name, const placed_matrix<T>& m, const std::vector<double>& reference,
                         double size) {
    const difference d = apart(m.numbers(), reference, size);
    BOOST_TEST(d.error <= limit, what << ": " << name << " is off by " << d.error << " at " << d.at);
    return d.error;
  };
  attention_forward(gpu, a);
  const double forward = check("y", y, p.y, largest_of(p.y));
  double worst = 0;
  if (backward) {
    attention_backward(gpu, attention_backward_arguments<T>{a, dy.view(), dq.view(), dk.view(), dv.view()});
    // Of few keys, dq and dk are what rounding leaves: by the largest of all gradients.
    const double size = std::max({largest_of(p.dq), largest_of(p.dk), largest_of(p.dv)});
    worst = std::max({check("dq", dq, p.dq, size), check("dk", dk, p.dk, size), check("dv", dv, p.dv, size)});
  }
  const cudaError_t status = cudaGetLastError();
  BOOST_TEST(status == cudaSuccess, what << ": " << cudaGetErrorString(status));
  BOOST_TEST_MESSAGE(what << ": y " << forward << ", gradients " << worst);
}

/// Angles of every row, and a bias of the queries, on both devices.
struct rotation {
  index half;
  std::vector<float> cosines, sines, bias;

  rotation(const problem& p, bool biased) : half(p.shape.width / 2) {
    rng random(7);
    for (index i = 0; i < p.seq.rows() * half; ++i) {
      const double angle = random.normal();
      cosines.push_back(static_cast<float>(std::cos(angle))),
          sines.push_back(static_cast<float>(std::sin(angle)));
    }
    for (index c = 0; biased && c < p.all(); ++c) bias.push_back(static_cast<float>(random.normal()));
  }
  void apply(std::vector<double>& q, index all) const {
    for (std::size_t row = 0; row * static_cast<std::size_t>(all) < q.size(); ++row)
      for (index c = 0; c < all; ++c) {
        if (c % (2 * half) >= half) continue;
        double *low = &q[row * static_cast<std::size_t>(all) + static_cast<std::size_t>(c)], *high = low + half;
        if (!bias.empty())
          *low += bias[static_cast<std::size_t>(c)], *high += bias[static_cast<std::size_t>(c + half)];
        const std::size_t angle =
            row * static_cast<std::size_t>(half) + static_cast<std::size_t>(c % (2 * half));
        const auto t = math::rotate<double>(*low, *high, cosines[angle], sines[angle]);
        *low = t.low, *high = t.high;
      }
  }
};

/// A frozen decoder's attention: all matrices in bfloat16, no past. Twice, for the same numbers.
void compare_in_bf16(device::basic_cuda<bf16_mixed>& gpu, problem p, const rotation* rotated = nullptr) {
  for (auto* x : {&p.q, &p.k, &p.v})
    for (double& number : *x) number = bf16(static_cast<float>(number));
  const index rows = p.seq.rows();
  placed_matrix<bf16> q(gpu, rows, p.all(), p.place, &p.q), k(gpu, rows, p.kv(), p.place, &p.k),
      v(gpu, rows, p.kv(), p.place, &p.v), y(gpu, rows, p.all(), p.place), again(gpu, rows, p.all(), p.place);
  device_copy<std::int32_t, device::cuda_base> start;
  device_copy<float, device::cuda_base> cosines, sines, bias;
  sequence_view seq = p.seq;
  if (!p.start.empty()) seq.start = start.put(gpu, p.start.data(), rows);
  device::detail::flash::query_angles angles{};
  if (rotated) {
    angles = {cosines.put(gpu, rotated->cosines.data(), rows * rotated->half),
              sines.put(gpu, rotated->sines.data(), rows * rotated->half), rotated->half,
              rotated->bias.empty() ? nullptr : bias.put(gpu, rotated->bias.data(), p.all())};
    rotated->apply(p.q, p.all());
  }
  p.on_the_cpu();
  for (const auto* out : {&y, &again})
    device::detail::flash::forward_bf16(
        gpu, attention_arguments<bf16>{seq, p.shape, q.view(), k.view(), v.view(), {}, out->view()}, angles);
  const std::string what = p.name() + (rotated ? " rotated" : "");
  const difference d = apart(y.numbers(), p.y, largest_of(p.y));
  BOOST_TEST(d.error <= (p.shape.width < 16 ? testing::cuda_tolerance::narrow_attention
                                            : testing::cuda_tolerance::attention.bf16),
             what << ": y is off by " << d.error << " at " << d.at);
  BOOST_TEST((y.numbers() == again.numbers()), what << ": another run, other numbers");
}

template <Precision P>
void runs_are_equal_of(device::basic_cuda<P>& gpu, const attention_shape& shape) {
  const index time = 300, rows = 3 * time;
  problem p(3, time, shape, 0, false);
  const placement plain{};
  placed_matrix<float> q(gpu, rows, p.all(), plain, &p.q), k(gpu, rows, p.kv(), plain, &p.k),
      v(gpu, rows, p.kv(), plain, &p.v), dy(gpu, rows, p.all(), plain, &p.dy);
  std::vector<float> first;
  for (int run = 0; run < 5; ++run) {
    placed_matrix<float> y(gpu, rows, p.all(), plain), dq(gpu, rows, p.all(), plain),
        dk(gpu, rows, p.kv(), plain), dv(gpu, rows, p.kv(), plain);
    const attention_arguments<float> a{p.seq, p.shape, q.view(), k.view(), v.view(), {}, y.view()};
    attention_forward(gpu, a);
    attention_backward(gpu, attention_backward_arguments<float>{a, dy.view(), dq.view(), dk.view(), dv.view()});
    std::vector<float> all;
    for (const auto* m : {&y, &dq, &dk, &dv})
      for (const float x : m->numbers()) all.push_back(x);
    if (run == 0) first = all;
    BOOST_TEST((all == first));
  }
}

const attention_shape shapes[] = {{6, 2, 64}, {3, 3, 10}, {9, 3, 16},  {12, 2, 128}, {4, 2, 48},
                                  {2, 2, 1},  {7, 1, 96}, {2, 1, 144}, {5, 5, 3},    {3, 1, 256}};

}  // namespace

BOOST_AUTO_TEST_CASE(float_is_float) {
  device::cuda gpu;
  for (const auto& shape : shapes)
    for (const index time : {1, 2, 7, 64, 131})
      for (const index past : {0, 5, 90})
        for (const bool documents : {false, true}) {
          problem p(2, time, shape, past, documents);
          compare<float>(gpu, p, testing::cuda_tolerance::attention.fp32);
        }
}
template <class P>
constexpr double limit =
    is_bf16<P> ? testing::cuda_tolerance::attention.bf16 : testing::cuda_tolerance::attention.fp32;

BOOST_AUTO_TEST_CASE_TEMPLATE(rows_may_lie_anywhere, P, float_precisions) {
  device::basic_cuda<P> gpu;
  for (const placement place : {placement{4, 0}, placement{3, 0}, placement{0, 1}, placement{5, 2}})
    for (const index time : {1, 70})
      for (const index width : {64, 128, 20})
        for (const index window : {0, 11}) {
          problem p(2, time, {4, 2, width, window, window / 5}, 9, true, place);
          compare<float>(gpu, p, limit<P>);
        }
}
BOOST_AUTO_TEST_CASE(bfloat16_is_close) {
  device::basic_cuda<bf16_mixed> gpu;
  for (const auto& shape : shapes)
    for (const index time : {2, 7, 64, 300})
      for (const index past : {0, 5, 90})
        for (const bool documents : {false, true}) {
          problem p(2, time, shape, past, documents);
          compare<float>(gpu, p,
                         shape.width < 16 ? testing::cuda_tolerance::narrow_attention
                                          : testing::cuda_tolerance::attention.bf16);
        }
}
BOOST_AUTO_TEST_CASE(matrices_in_bfloat16) {
  device::basic_cuda<bf16_mixed> gpu;
  for (const attention_shape& shape :
       {attention_shape{9, 3, 64}, {1, 1, 64}, {7, 1, 64}, {12, 2, 128}, {3, 1, 96}, {4, 2, 20}, {5, 5, 3}})
    for (const index time : {1, 7, 64, 131, 300})
      for (const bool documents : {false, true})
        for (const placement place : {placement{}, placement{8, 0}, placement{3, 1}})
          compare_in_bf16(gpu, {2, time, shape, 0, documents, place});
  for (const attention_shape& shape : {attention_shape{9, 3, 64, 64, 4},
                                       {6, 2, 64, 11, 2},
                                       {2, 1, 64, 20, 70},
                                       {3, 1, 64, 129, 4},
                                       {2, 1, 128, 50, 20}})
    for (const index document : {1, 23, 100, 1000})
      compare_in_bf16(gpu, {3, 300, shape, 0, true, {}, document});
  // More parts than a row of blocks has; scores whose largest keeps growing, far beyond those of the first keys.
  compare_in_bf16(gpu, {70, 50, {3, 1, 64}, 0, true});
  problem growing(2, 512, {9, 3, 64}, 0, false);
  for (std::size_t i = 0; i < growing.k.size(); ++i) growing.k[i] *= 1 + static_cast<double>(i) / 20000;
  compare_in_bf16(gpu, growing);
}
BOOST_AUTO_TEST_CASE(queries_rotated_on_their_way) {
  device::basic_cuda<bf16_mixed> gpu;
  for (const attention_shape& shape : {attention_shape{9, 3, 64}, {1, 1, 64}, {4, 2, 128}})
    for (const bool biased : {false, true})
      for (const index time : {1, 131, 512}) {
        const problem p(2, time, shape, 0, true);
        const rotation turned(p, biased);
        compare_in_bf16(gpu, p, &turned);
      }
}
BOOST_AUTO_TEST_CASE_TEMPLATE(windows_and_sinks, P, float_precisions) {
  device::basic_cuda<P> gpu;
  for (const attention_shape& shape : {attention_shape{6, 2, 64, 64, 4},
                                       {9, 3, 64, 5, 0},
                                       {3, 3, 20, 1, 2},
                                       {2, 2, 64, 1, 0},
                                       {4, 2, 48, 33, 40},
                                       {6, 1, 128, 20, 4},
                                       {5, 5, 16, 7, 1},
                                       {2, 1, 144, 50, 3},
                                       {6, 2, 64, 20, 20},
                                       {2, 1, 64, 20, 70},
                                       {4, 2, 128, 5, 66},
                                       {8, 2, 64, 90, 10},
                                       {3, 1, 64, 128, 4},
                                       {3, 1, 64, 129, 4},
                                       {2, 2, 64, 1000, 4}})
    for (const index time : {1, 2, 7, 131, 300})
      for (const index past : {0, 5, 200})
        for (const bool documents : {false, true}) {
          problem p(2, time, shape, past, documents, {}, 100);
          compare<float>(gpu, p, limit<P>);
        }
  // Many documents in a tile, rows that lie anywhere, and a length that the window and the sinks just hold.
  for (const index document : {1, 3, 23})
    for (const placement place : {placement{}, placement{5, 2}})
      for (const index time : {68, 150}) {
        problem p(3, time, {6, 2, 64, 11, 2}, 30, true, place, document);
        compare<float>(gpu, p, limit<P>);
      }
}
BOOST_AUTO_TEST_CASE(double_is_double) {
  device::cuda gpu;
  for (const index time : {1, 40})
    for (const index window : {0, 7}) {
      problem p(2, time, {4, 2, 64, window, window > 0 ? 2 : 0}, 9, true);
      compare<double>(gpu, p, 1e-12);
    }
}
BOOST_AUTO_TEST_CASE_TEMPLATE(a_teacher_s_shapes, P, float_precisions) {
  device::basic_cuda<P> gpu;
  problem small(2, 512, {9, 3, 64}, 0, false), large(1, 512, {12, 2, 128}, 0, false);
  compare<float>(gpu, small, limit<P>);
  compare<float>(gpu, large, limit<P>);
  // Single tokens after texts of other lengths each, and a second prompt after a first.
  problem token(5, 1, {9, 3, 64}, 1500, false), prompt(2, 150, {12, 2, 128}, 700, false);
  compare<float>(gpu, token, testing::cuda_tolerance::attention.fp32, false);
  compare<float>(gpu, prompt, limit<P>);
}
BOOST_AUTO_TEST_CASE_TEMPLATE(a_linearised_student_s_shapes, P, float_precisions) {
  device::basic_cuda<P> gpu;
  const attention_shape shape{9, 3, 64, 64, 4};
  problem whole(2, 512, shape, 0, false), packed(3, 512, shape, 700, true, {}, 170);
  compare<float>(gpu, whole, limit<P>);
  compare<float>(gpu, packed, limit<P>);
  problem token(5, 1, shape, 1500, false);
  compare<float>(gpu, token, testing::cuda_tolerance::attention.fp32, false);
}
BOOST_AUTO_TEST_CASE_TEMPLATE(runs_are_equal, P, float_precisions) {
  device::basic_cuda<P> gpu;
  for (const index window : {0, 20, 129})
    for (const index sinks : {window / 5, window}) runs_are_equal_of(gpu, {6, 2, 64, window, sinks});
}

}  // namespace distil_xlstm
