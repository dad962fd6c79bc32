#include <boost/test/unit_test.hpp>

#include <cmath>
#include <limits>
#include <vector>

#include <distil_xlstm/device/cpu.hpp>
#include <distil_xlstm/loss/any_objective.hpp>
#include <distil_xlstm/loss/distillation.hpp>
#include <distil_xlstm/loss/head.hpp>

#include "../random_numbers.hpp"

namespace distil_xlstm::loss {
namespace {

constexpr index rows = 7, width = 12, vocabulary = 53;  // neither a multiple of a pack
constexpr schedule::clock now{2, 10};

template <class T>
struct problem {
  std::vector<T> hs = random_numbers<T>(rows * width, 1), ht = random_numbers<T>(rows * width, 2),
                 head = random_numbers<T>(vocabulary * width, 3), dhs = std::vector<T>(rows * width, T(99));
  std::vector<std::int32_t> targets{0, 52, 7, 16, 33, 48, 8};
  std::vector<std::uint8_t> scored{1, 1, 0, 1, 1, 0, 1};

  matrix_view<const T> student() const { return {hs.data(), rows, width}; }
  matrix_view<const T> teacher() const { return {ht.data(), rows, width}; }
  matrix_view<const T> weight() const { return {head.data(), vocabulary, width}; }
  matrix_view<T> gradient() { return {dhs.data(), rows, width}; }

  std::vector<double> logits(const std::vector<T>& h, index r) const {
    std::vector<double> z(vocabulary);
    for (index v = 0; v < vocabulary; ++v)
      for (index i = 0; i < width; ++i)
        z[static_cast<std::size_t>(v)] += static_cast<double>(h[static_cast<std::size_t>(r * width + i)]) *
                                          static_cast<double>(head[static_cast<std::size_t>(v * width + i)]);
    return z;
  }
};

std::vector<double> softmax(const std::vector<double>& z, double temperature) {
  std::vector<double> p;
  double sum = 0;
  for (double x : z) sum += std::exp(x / temperature);
  for (double x : z) p.push_back(std::exp(x / temperature) / sum);
  return p;
}

struct naive_sums {
  double kl = 0, ce = 0, value = 0;
  std::vector<double> dhs = std::vector<double>(rows * width, 0);
};
/// alpha T² KL + gamma CE, with all logits at once and no streaming.
template <class T>
naive_sums naive(const problem<T>& p, double alpha, double gamma, double t, double factor, bool masked) {
  naive_sums out;
  for (index r = 0; r < rows; ++r) {
    const auto i = static_cast<std::size_t>(r);
    if (masked && !p.scored[i]) continue;
    const auto target = static_cast<std::size_t>(p.targets[i]);
    const auto zs = p.logits(p.hs, r), zt = p.logits(p.ht, r);
    const auto ps = softmax(zs, t), pt = softmax(zt, t), p1 = softmax(zs, 1);
    double kl = 0;
    for (std::size_t v = 0; v < ps.size(); ++v) kl += pt[v] * std::log(pt[v] / ps[v]);
    out.kl += kl;
    out.ce -= std::log(p1[target]);
    for (std::size_t v = 0; v < ps.size(); ++v) {
      const double g = factor * (alpha * t * (ps[v] - pt[v]) + gamma * (p1[v] - (v == target)));
      for (std::size_t c = 0; c < width; ++c)
        out.dhs[i * width + c] += g * static_cast<double>(p.head[v * width + c]);
    }
  }
  out.value = alpha * t * t * out.kl + gamma * out.ce;
  return out;
}

template <class T>
double distance(const std::vector<T>& a, const std::vector<double>& b) {
  double worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i)
    worst = std::max(worst, std::abs(static_cast<double>(a[i]) - b[i]));
  return worst;
}

}  // namespace

BOOST_AUTO_TEST_CASE_TEMPLATE(the_chunked_head_is_the_naive_one, T, decltype(std::tuple<float, double>{})) {
  const double eps = sizeof(T) == 8 ? 1e-12 : 2e-5;
  const auto o = (0.4 * kl(1.7) + 0.5 * cross_entropy()).template at<T>(now);
  constexpr index row_bytes = 2 * vocabulary * static_cast<index>(sizeof(T));
  for (bool masked : {true, false})
    for (int threads : {1, 3})
      for (index bytes : {index{1}, 3 * row_bytes, head_bytes}) {
        device::cpu cpu(threads);
        problem<T> p;
        const auto* scored = masked ? p.scored.data() : nullptr;
        const auto expected = naive(p, 0.4, 0.5, 1.7, 0.2, masked);
        const auto got = head(cpu, o.logits, p.student(), p.teacher(), p.weight(), p.targets.data(), scored,
                              T(0.2), p.gradient(), bytes);
        BOOST_TEST(got.rows == (masked ? 5 : 7));
        BOOST_TEST(std::abs(got.raw[0] - expected.kl) < eps * 30);
        BOOST_TEST(std::abs(got.raw[1] - expected.ce) < eps * 30);
        BOOST_TEST(std::abs(got.value - expected.value) < eps * 30);
        BOOST_TEST(distance(p.dhs, expected.dhs) < eps);
        const auto quiet = head(cpu, o.logits, p.student(), p.teacher(), p.weight(), p.targets.data(), scored,
                                T(0.2), {}, bytes);
        BOOST_TEST(quiet.value == got.value);
      }
}

BOOST_AUTO_TEST_CASE(threads_do_not_show) {
  std::vector<float> first;
  double value = 0;
  const auto o = (0.4 * kl(1.7) + 0.5 * cross_entropy()).at<float>(now);
  for (int threads : {1, 2, 5}) {
    device::cpu cpu(threads);
    problem<float> p;
    const auto got = head(cpu, o.logits, p.student(), p.teacher(), p.weight(), p.targets.data(), nullptr, 1.f,
                          p.gradient(), 1000);
    if (first.empty()) first = p.dhs, value = got.value;
    BOOST_TEST(p.dhs == first);
    BOOST_TEST(got.value == value);
  }
}

BOOST_AUTO_TEST_CASE(the_gradient_is_the_derivative) {
  device::cpu cpu(1);
  problem<double> p;
  const auto o = (0.4 * kl(2) + 0.5 * cross_entropy() + 0.3 * reverse_kl(1.5)).at<double>(now);
  const auto run = [&](bool gradient) {
    return head(cpu, o.logits, p.student(), p.teacher(), p.weight(), p.targets.data(), p.scored.data(), 1.0,
                gradient ? p.gradient() : matrix_view<double>{}, 2000)
        .value;
  };
  run(true);
  double worst = 0, largest = 0;
  for (std::size_t i = 0; i < p.hs.size(); ++i) {
    const double keep = p.hs[i], h = 1e-5;
    p.hs[i] = keep + h;
    const double up = run(false);
    p.hs[i] = keep - h;
    const double down = run(false);
    p.hs[i] = keep;
    worst = std::max(worst, std::abs((up - down) / (2 * h) - p.dhs[i]));
    largest = std::max(largest, std::abs(p.dhs[i]));
  }
  BOOST_TEST(worst / largest < 1e-7);
}

/// A student's head beside a teacher's of another width, whose gradient is added chunk by chunk.
BOOST_AUTO_TEST_CASE(a_head_of_the_students_own) {
  constexpr index teacher_width = 9;
  const auto o = (0.4 * kl(2) + 0.5 * cross_entropy() + 0.3 * reverse_kl(1.5)).at<double>(now);
  const auto ht = random_numbers<double>(rows * teacher_width, 4),
             head_t = random_numbers<double>(vocabulary * teacher_width, 5);
  const matrix_view<const double> teacher(ht.data(), rows, teacher_width),
      teacher_head(head_t.data(), vocabulary, teacher_width);
  for (index bytes : {index{1}, 3 * 2 * vocabulary * index{8}, head_bytes}) {
    device::cpu cpu(2);
    problem<double> p;
    std::vector<double> dhead(p.head.size(), 7.0);
    const auto run = [&](matrix_view<double> dhs, matrix_view<double> gradient) {
      return head(cpu, o.logits, p.student(), teacher, head_pair{p.weight(), teacher_head, gradient},
                  p.targets.data(), p.scored.data(), 1.0, dhs, bytes)
          .value;
    };
    const double value = run(p.gradient(), {dhead.data(), vocabulary, width});
    std::vector<double> alone(p.head.size(), 7.0);
    BOOST_TEST(run({}, {alone.data(), vocabulary, width}) == value);
    BOOST_TEST(alone == dhead);
    const auto check = [&](std::vector<double>& x, const std::vector<double>& gradient, double from) {
      double worst = 0, largest = 0;
      for (std::size_t i = 0; i < x.size(); i += 5) {
        const double keep = x[i], h = 1e-5;
        x[i] = keep + h;
        const double up = run({}, {});
        x[i] = keep - h;
        const double down = run({}, {});
        x[i] = keep;
        worst = std::max(worst, std::abs((up - down) / (2 * h) - (gradient[i] - from)));
        largest = std::max(largest, std::abs(gradient[i] - from));
      }
      BOOST_TEST(worst / largest < 1e-7);
    };
    check(p.hs, p.dhs, 0);
    check(p.head, dhead, 7);
  }
  // The same matrix twice is one matrix.
  device::cpu cpu(2);
  problem<float> p, q;
  std::vector<float> dhead(p.head.size());
  const auto f = (0.4 * kl(2) + 0.5 * cross_entropy()).at<float>(now);
  const auto one = head(cpu, f.logits, p.student(), p.teacher(), p.weight(), p.targets.data(), nullptr, 1.f,
                        p.gradient(), 3000);
  const auto pair = head_pair{q.weight(), q.weight(), matrix_view<float>(dhead.data(), vocabulary, width)};
  const auto two =
      head(cpu, f.logits, q.student(), q.teacher(), pair, q.targets.data(), nullptr, 1.f, q.gradient(), 3000);
  BOOST_TEST(pair.shared());
  BOOST_TEST(one.value == two.value);
  BOOST_TEST(p.dhs == q.dhs);
  BOOST_CHECK_THROW(head(cpu, f.logits, p.student(), p.teacher(),
                         head_pair{p.weight(), p.weight(), matrix_view<float>(dhead.data(), 4, width)},
                         p.targets.data(), nullptr, 1.f, p.gradient()),
                    error);
}

/// Selection, two folds and gradient, in packs and chunks, of terms that the compiler knows and that it does not.
BOOST_AUTO_TEST_CASE(terms_of_two_passes) {
  device::cpu cpu(2);
  any_objective chosen;
  chosen.add({.kind = logits_kind::jsd, .weight = 0.4, .temperature = 1.5, .share = 0.3});
  chosen.add({.kind = logits_kind::ce, .weight = 0.5});
  chosen.add({.kind = logits_kind::top_k_kl, .weight = 0.3, .temperature = 2.0, .k = 9});
  const auto o =
      (0.4 * jsd(0.3, 1.5) + 0.5 * cross_entropy() + 0.3 * top_k_kl(9, tail::one_class, 2)).at<double>(now);
  const auto c = chosen.at<double>(now);
  for (const index bytes : {index{1}, index{2000}, head_bytes}) {
    problem<double> p, q;
    const auto run = [&](problem<double>& x, const auto& terms, bool gradient) {
      return head(cpu, terms, x.student(), x.teacher(), x.weight(), x.targets.data(), x.scored.data(), 1.0,
                  gradient ? x.gradient() : matrix_view<double>{}, bytes)
          .value;
    };
    const double value = run(p, o.logits, true);
    BOOST_TEST(run(q, c.logits, true) == value, boost::test_tools::tolerance(1e-13));
    double worst = 0, largest = 0, apart = 0;
    for (std::size_t i = 0; i < p.hs.size(); i += 5) {
      const double keep = p.hs[i], h = 1e-5;
      p.hs[i] = keep + h;
      const double up = run(p, o.logits, false);
      p.hs[i] = keep - h;
      const double down = run(p, o.logits, false);
      p.hs[i] = keep;
      worst = std::max(worst, std::abs((up - down) / (2 * h) - p.dhs[i]));
      apart = std::max(apart, std::abs(p.dhs[i] - q.dhs[i]));
      largest = std::max(largest, std::abs(p.dhs[i]));
    }
    BOOST_TEST(worst / largest < 1e-7);
    BOOST_TEST(apart < 1e-12);
  }
}

BOOST_AUTO_TEST_CASE(a_missing_teacher) {
  device::cpu cpu(1);
  problem<double> p;
  distillation d;
  d.form = alignment::none;
  const auto run = [&] {
    return head(cpu, d.at<double>(now).logits, p.student(), {}, p.weight(), p.targets.data(), nullptr, 1.0,
                p.gradient());
  };
  BOOST_CHECK_THROW(run(), error);
  d.alpha = 0.0;
  const auto got = run();
  const auto expected = naive(p, 0, 1, 1, 1, false);
  BOOST_TEST(std::abs(got.raw[0]) < 1e-12);
  BOOST_TEST(std::abs(got.value - expected.ce) < 1e-11);
  BOOST_TEST(distance(p.dhs, expected.dhs) < 1e-12);

  const auto only_hidden = mse().at<double>(now);
  head(cpu, only_hidden.logits, p.student(), {}, p.weight(), p.targets.data(), nullptr, 1.0, p.gradient());
  BOOST_TEST(distance(p.dhs, std::vector<double>(rows * width, 0)) == 0);
  BOOST_CHECK_THROW(
      head(cpu, d.at<double>(now).logits, p.student(), {}, matrix_view<const double>(p.head.data(), 4, 3),
           p.targets.data(), nullptr, 1.0, p.gradient()),
      error);
}

/// Packs meet minus infinity and NaN as scalars do.
BOOST_AUTO_TEST_CASE_TEMPLATE(extreme_logits_in_packs, T, decltype(std::tuple<float, double>{})) {
  device::cpu cpu(1);
  problem<T> p;
  const auto o = (kl(2) + cross_entropy() + reverse_kl(1)).template at<T>(now);
  std::vector<T> wide(static_cast<std::size_t>(vocabulary * 1)), one{T(1)}, two{T(2)}, dh{T(0)};
  const matrix_view<const T> weight(wide.data(), vocabulary, 1), hs(one.data(), 1, 1), ht(two.data(), 1, 1);
  for (std::size_t v = 0; v < wide.size(); ++v) wide[v] = v % 5 == 1 ? T(-1e20) : T(v % 7);
  const std::int32_t target = 3;
  const auto finite = head(cpu, o.logits, hs, ht, weight, &target, nullptr, T(1), {dh.data(), 1, 1});
  BOOST_TEST(std::isfinite(finite.value));
  BOOST_TEST(std::isfinite(dh[0]));
  for (auto& w : wide) w = w < 0 ? -std::numeric_limits<T>::infinity() : w;
  const auto infinite = head(cpu, o.logits, hs, ht, weight, &target, nullptr, T(1), {});
  BOOST_TEST(infinite.value == finite.value);
  one[0] = std::numeric_limits<T>::quiet_NaN();
  BOOST_TEST(std::isnan(head(cpu, o.logits, hs, ht, weight, &target, nullptr, T(1), {}).value));
}

BOOST_AUTO_TEST_CASE(scores_of_tokens) {
  device::cpu cpu(2);
  problem<double> p;
  for (index r : {0, 4}) {
    const auto z = p.logits(p.hs, r);
    p.targets[static_cast<std::size_t>(r)] =
        static_cast<std::int32_t>(std::max_element(z.begin(), z.end()) - z.begin());
  }
  for (index bytes : {index{1}, head_bytes}) {
    std::vector<double> nll(rows);
    std::vector<std::uint8_t> is_argmax(rows);
    const auto got = score_tokens(cpu, p.student(), p.weight(), p.targets.data(), p.scored.data(), nll.data(),
                                  is_argmax.data(), bytes);
    double sum = 0;
    for (index r = 0; r < rows; ++r) {
      const auto i = static_cast<std::size_t>(r);
      const auto z = p.logits(p.hs, r);
      const auto target = static_cast<std::size_t>(p.targets[i]);
      const double expected = p.scored[i] ? -std::log(softmax(z, 1)[target]) : 0.0;
      BOOST_TEST(std::abs(nll[i] - expected) < 1e-12);
      BOOST_TEST(static_cast<bool>(is_argmax[i]) ==
                 (p.scored[i] && z[target] >= *std::max_element(z.begin(), z.end())));
      sum += expected;
    }
    BOOST_TEST(std::abs(got.nll - sum) < 1e-11);
    BOOST_TEST(got.scored == 5);
    BOOST_TEST(got.correct == 2);
  }
}

}  // namespace distil_xlstm::loss
