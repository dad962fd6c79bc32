#include "compare.hpp"

#include <string>

#include <distil_xlstm/device/rounded_weights.hpp>
#include <distil_xlstm/loss/alignment.hpp>
#include <distil_xlstm/loss/any_objective.hpp>
#include <distil_xlstm/loss/distillation.hpp>
#include <distil_xlstm/loss/head.hpp>
#include <distil_xlstm/testing/tolerances.hpp>

// The head with its objective, and alignments, on the GPU against the CPU in double.
namespace distil_xlstm::loss {
namespace {

constexpr schedule::clock now{2, 10};

/// A term of a user's own, with functions that the library's terms do not call: the mean over the row of
/// log(1 + exp(tanh(s - t))) + sqrt(1 + s²).
template <class T>
struct odd_term {
  using site = logits_site;
  using scalar = T;
  using sum = math::sum<T>;
  [[maybe_unused]] static constexpr const char* name = "odd";
  static constexpr bool uses_teacher = true;
  template <class V>
  DISTIL_XLSTM_HD auto folds(V s, V t) const {
    using std::exp, std::log1p, std::sqrt, std::tanh;
    return fold_list(fold<math::sum>(log1p(exp(tanh(s - t))) + sqrt(V(1) + s * s)), fold<math::sum>(V(1)));
  }
  DISTIL_XLSTM_HD T value(const target_logits<T>& row, const sum& all, const sum& count) const {
    return all.total / count.total + row.student;
  }
  template <class V>
  DISTIL_XLSTM_HD V grad(const target_logits<T>&, V s, V t, const sum&, const sum& count) const {
    using std::sqrt, std::tanh;
    const V u = tanh(s - t);
    return ((V(1) - u * u) * math::sigmoid(u) + s / sqrt(V(1) + s * s)) / V(count.total);
  }
  DISTIL_XLSTM_HD T target_grad(const target_logits<T>&, const sum&, const sum&) const { return T(1); }
};

struct problem {
  index rows, width, vocabulary;
  bool teacher = true, masked = false;
  index slack = 0;        ///< numbers between rows
  double spread = 1;      ///< of the logits
  bool shut_out = false;  ///< a token has logits of minus infinity, the student's and the teacher's
};
struct results {
  std::vector<double> gradient, sums, quiet;
};
template <class D, class T, class Objective>
results run(D& d, const problem& p, const Objective& objective, index bytes, bool frozen) {
  const index n = p.rows, w = p.width, v = p.vocabulary, stride = w + p.slack;
  const double spread = p.spread / std::sqrt(static_cast<double>(w));
  std::vector<double> targets, scored;
  rng r(9);
  for (index i = 0; i < n; ++i) {
    targets.push_back(static_cast<double>(i == 0   ? 0
                                          : i == 1 ? v - 1
                                                   : r.below(static_cast<std::uint64_t>(v))));
    scored.push_back(i % 3 != 1);
  }
  auto students = random_numbers(n * stride, 1), teachers = random_numbers(n * stride, 2),
       weights = random_numbers(v * w, 3, spread);
  if (p.shut_out) {
    const index token = v / 2;
    weights[static_cast<std::size_t>(token * w)] = -3e38;
    for (index i = 0; i < n; ++i) {
      const auto first = static_cast<std::size_t>(i * stride);
      students[first] = teachers[first] = 4;
      double& target = targets[static_cast<std::size_t>(i)];
      if (target == static_cast<double>(token)) target = 0;
    }
  }
  const on_device<T, D> hs(d, students), ht(d, teachers), head_memory(d, weights), dhs(d, n * stride);
  const on_device<std::int32_t, D> ids(d, targets);
  const on_device<std::uint8_t, D> takes(d, scored);
  const on_device<double, D> totals(d, 16);
  const auto o = objective.template at<T>(now);
  const matrix_view<const T> student(hs.data(), n, w, stride),
      teacher = p.teacher ? matrix_view<const T>(ht.data(), n, w, stride) : matrix_view<const T>{};
  const matrix_view<T> gradient(dhs.data(), n, w, stride);
  const auto* mask = p.masked ? takes.data() : nullptr;
  const T factor = T(0.125);
  sums<decltype(o.logits)::terms> out, quiet;
  const auto call = [&](auto weight) {
    out = head(d, o.logits, student, teacher, weight, ids.data(), mask, factor, gradient, bytes);
    quiet = head(d, o.logits, student, teacher, weight, ids.data(), mask, factor, {}, bytes);
    head(d, o.logits, student, teacher, weight, ids.data(), mask, factor, {}, totals.data(), bytes);
  };
  if (frozen)
    call(frozen_matrix{head_memory.data(), dtype_of<T>, v, w});
  else
    call(matrix_view<const T>(head_memory.data(), v, w));
  results all;
  const auto numbers = dhs.numbers();
  for (index i = 0; i < n; ++i)
    all.gradient.insert(all.gradient.end(), numbers.begin() + i * stride, numbers.begin() + i * stride + w);
  const auto list = [](const auto& s) {
    std::vector<double> x(s.raw.begin(), s.raw.end());
    x.push_back(s.value), x.push_back(static_cast<double>(s.rows));
    return x;
  };
  all.sums = list(out), all.quiet = list(quiet);
  auto left = totals.numbers();
  left.resize(all.sums.size());
  BOOST_TEST(left == all.quiet, boost::test_tools::per_element());
  return all;
}

/// `smooth`: rounding logits to bfloat16 moves the gradient by as little; not so where it may swap the k-th largest
/// with the next, or p with q.
template <class Objective>
void check(const std::string& what, const problem& p, const Objective& objective, bool smooth = true) {
  device::cuda gpu;
  using bf16_device = device::basic_cuda<bf16_mixed>;
  bf16_device rounding;
  device::cpu cpu(2);
  const auto want = run<device::cpu, double>(cpu, p, objective, 0, false);
  const auto compare = [&](const std::string& how, const results& got, double sums_most, double most) {
    check_close((what + ", " + how + ", sums").c_str(), got.sums, want.sums, sums_most);
    check_close((what + ", " + how + ", gradient").c_str(), got.gradient, want.gradient, most);
    BOOST_TEST(got.sums == got.quiet, boost::test_tools::per_element());
  };
  for (const index bytes : {index{0}, index{1}, 5 * 2 * p.vocabulary * 8})
    for (const bool frozen : {false, true}) {
      if ((bytes == 1 || frozen) && p.rows * p.vocabulary > 200000) continue;
      compare("double", run<device::cuda, double>(gpu, p, objective, bytes, frozen), 1e-12, 1e-12);
      compare("float", run<device::cuda, float>(gpu, p, objective, bytes, frozen),
              testing::cuda_tolerance::head_value.fp32, testing::cuda_tolerance::head_gradient.fp32);
      if (smooth)
        compare("bf16", run<bf16_device, float>(rounding, p, objective, bytes, frozen),
                testing::cuda_tolerance::head_value.bf16,
                testing::cuda_tolerance::head_gradient.bf16 * std::max(1.0, p.spread / 3));
    }
}

template <class T, class D, class Objective>
std::vector<std::vector<double>> aligned(D& d, index pairs, index batch, index time, index width, bool masked,
                                         const Objective& objective) {
  const index n = batch * time;
  std::vector<double> scored;
  for (index b = 0; b < batch; ++b)
    for (index t = 0; t < time; ++t) scored.push_back(b % 3 != 1 && (b + t) % 4 != 2);
  const on_device<std::uint8_t, D> takes(d, scored);
  std::vector<on_device<T, D>> s, t, g;
  std::vector<hidden_pair<T>> list;
  for (index l = 0; l < pairs; ++l) {
    s.emplace_back(d, random_numbers(n * width, 10 + static_cast<std::uint64_t>(l)));
    t.emplace_back(d, random_numbers(n * width, 20 + static_cast<std::uint64_t>(l)));
    g.emplace_back(d, random_numbers(n * width, 30 + static_cast<std::uint64_t>(l)));
  }
  for (std::size_t l = 0; l < s.size(); ++l)
    list.push_back({{s[l].data(), n, width}, {t[l].data(), n, width}, {g[l].data(), n, width}});
  const auto o = objective.template at<T>(now);
  const auto got =
      align(d, o.hidden, sequence_view{batch, time}, std::span<const hidden_pair<T>>(list),
            masked ? takes.data() : nullptr, T(100), masked ? 1 : 3);  // one of three parts of a step
  std::vector<std::vector<double>> all;
  for (const auto& x : g) all.push_back(x.numbers());
  std::vector<double> sums(got.raw.begin(), got.raw.end());
  sums.push_back(got.value), sums.push_back(static_cast<double>(got.rows));
  all.push_back(sums);
  return all;
}

}  // namespace

BOOST_AUTO_TEST_CASE(the_head_is_the_cpus) {
  const auto both = 0.4 * kl(1.7) + 0.5 * cross_entropy();
  check("tiny", {3, 5, 7}, both);
  check("one row", {1, 12, 53}, both);
  check("a pack and a bit", {7, 12, 53, true, true, 3}, both);
  check("columns in eights", {9, 16, 64, true, false, 4}, both);
  check("no teacher", {9, 16, 70, false, true}, 1.0 * cross_entropy());
  check("three terms", {7, 24, 301, true, true}, both + 0.3 * reverse_kl(1.5));
  check("large logits", {7, 24, 301, true, true, 0, 12}, both + 0.3 * reverse_kl(1.5));
  check("a term of one's own", {7, 24, 300, true, false},
        0.5 * cross_entropy() + 0.25 * detail::plain_expression<odd_term>{});
  check("one fold for two terms", {7, 24, 301, true, true}, kl(1) + 0.5 * cross_entropy());
  check("jsd", {7, 24, 301, true, true}, jsd(0.3));
  check("skew_kl", {7, 24, 301, true, true}, skew_kl(0.1, 2));
  check("skew_reverse_kl", {7, 24, 301, true, true}, skew_reverse_kl(0.1));
  check("tvd", {7, 24, 300, true, true}, tvd(1.5), false);
  check("top_k_kl", {7, 24, 301, true, true}, top_k_kl(9, tail::ignored, 2), false);
  check("top_k_kl, two", {9, 16, 1024, true, false, 4},
        both + top_k_kl(5) + 0.3 * top_k_kl(50, tail::ignored, 2), false);
  any_objective chosen;
  chosen.add({.kind = logits_kind::jsd, .weight = 0.4, .temperature = 1.5, .share = 0.3});
  chosen.add({.kind = logits_kind::ce, .weight = 0.5});
  chosen.add({.kind = logits_kind::kl, .weight = 0.3, .temperature = 1.5});
  check("chosen at run time", {9, 16, 1024, true, true, 4}, chosen);
  chosen.add({.kind = logits_kind::top_k_kl, .weight = 0.3, .k = 9});
  check("chosen at run time, one more", {9, 16, 301, true, true}, chosen, false);
  check("two passes and one", {9, 16, 1024, true, false, 4}, both + 0.3 * jsd(0.5, 2) + 0.2 * skew_kl(0.3));
  check("many rows", {130, 64, 1000, true, true}, both);
  check("more rows than fit at once", {1100, 16, 1001, true, true}, both);
  check("more rows than fit at once, none left out, two passes", {700, 16, 1024, true},
        both + 0.3 * jsd(0.5, 2));
  check("more rows than fit at once, no teacher", {700, 16, 1001, false, true}, 1.0 * cross_entropy());
  check("a real vocabulary", {24, 96, 49152, true, true}, both);
  check("a real vocabulary and three", {17, 64, 49155, true, true}, both);
  check("a real vocabulary and more rows than fit at once", {300, 16, 49155, true, true}, both);
  check("a large vocabulary", {3, 64, 151936}, both + 0.3 * jsd(0.5, 2));
  check("a vocabulary too large for a cluster", {3, 64, 200003}, both);
  check("a large vocabulary, no teacher", {3, 64, 151936, false}, 1.0 * cross_entropy());
  check("a token that is shut out", {7, 24, 301, true, true, 0, 1, true}, both + 0.3 * jsd(0.5));
  // Softmaxes alone, whose sums begin anew where a logit is far above all before.
  check("softmaxes, a token that is shut out", {7, 24, 301, true, true, 0, 1, true}, both);
  check("softmaxes, logits far apart", {17, 64, 49155, true, true, 0, 40}, both);
  check("two softmaxes, a real vocabulary", {17, 64, 49152, true}, kl(1) + 0.5 * cross_entropy());
}

struct pair_results {
  std::vector<double> sums, dhs, dhead;
};
/// A head of the student's own, its gradient added to what is there, beside a teacher of another width. Where `held`
/// is not 0, so many times the student's is held as its copy.
template <class T, class D>
pair_results run_pair(D& d, index n, index width, index teacher_width, index v, index bytes, double held = 0) {
  const double spread = 1 / std::sqrt(static_cast<double>(width));
  const on_device<T, D> hs(d, random_numbers(n * width, 1)), ht(d, random_numbers(n * teacher_width, 2)),
      own(d, random_numbers(v * width, 3, spread)), others(d, random_numbers(v * teacher_width, 4, spread)),
      dhs(d, n * width), dhead(d, random_numbers(v * width, 5));
  std::vector<double> targets, scored;
  for (index i = 0; i < n; ++i) targets.push_back(static_cast<double>(i * 7 % v)), scored.push_back(i % 3 != 1);
  const on_device<std::int32_t, D> ids(d, targets);
  const on_device<std::uint8_t, D> takes(d, scored);
  const auto o = (0.4 * kl(1.7) + 0.5 * cross_entropy()).template at<T>(now);
  const head_pair heads{matrix_view<const T>(own.data(), v, width),
                        matrix_view<const T>(others.data(), v, teacher_width),
                        matrix_view<T>(dhead.data(), v, width)};
  const auto call = [&] {
    return head(d, o.logits, matrix_view<const T>(hs.data(), n, width),
                matrix_view<const T>(ht.data(), n, teacher_width), heads, ids.data(), takes.data(), T(0.125),
                matrix_view<T>(dhs.data(), n, width), bytes);
  };
  const auto call_held = [&] {
    const on_device<T, D> copied(d, random_numbers(v * width, 3, held * spread));
    const rounded_weights<T, D> rounded(d, v * width);
    rounded.round(d, copied.data());
    [[maybe_unused]] const auto hold = rounded.hold(d, own.data());
    return call();
  };
  const auto got = held != 0 ? call_held() : call();
  return {{got.raw[0], got.raw[1], got.value, static_cast<double>(got.rows)}, dhs.numbers(), dhead.numbers()};
}

BOOST_AUTO_TEST_CASE(a_head_of_the_students_own) {
  device::cuda gpu;
  device::basic_cuda<bf16_mixed> rounding;
  device::cpu cpu(2);
  const auto value = testing::cuda_tolerance::head_value, gradient = testing::cuda_tolerance::head_gradient;
  for (const auto& [n, width, teacher_width, v] :
       {std::array<index, 4>{7, 12, 9, 53}, {9, 16, 24, 64}, {130, 64, 96, 1000}})
    for (const index bytes : {index{0}, index{1}, 5 * 2 * v * 8}) {
      const auto want = run_pair<double>(cpu, n, width, teacher_width, v, 0);
      const auto compare = [&](const char* how, const pair_results& got, double sums_most, double most) {
        check_close(how, got.sums, want.sums, sums_most);
        check_close(how, got.dhs, want.dhs, most);
        check_close(how, got.dhead, want.dhead, most);
      };
      compare("double", run_pair<double>(gpu, n, width, teacher_width, v, bytes), 1e-12, 1e-12);
      compare("float", run_pair<float>(gpu, n, width, teacher_width, v, bytes), value.fp32, gradient.fp32);
      const auto got = run_pair<float>(rounding, n, width, teacher_width, v, bytes);
      compare("bf16", got, value.bf16, gradient.bf16);
      const auto held = run_pair<float>(rounding, n, width, teacher_width, v, bytes, 1),
                 other = run_pair<float>(rounding, n, width, teacher_width, v, bytes, 2);
      BOOST_TEST((held.sums == got.sums && held.dhs == got.dhs && held.dhead == got.dhead));
      BOOST_TEST((other.sums != got.sums) == (width % 8 == 0));
    }
}

BOOST_AUTO_TEST_CASE_TEMPLATE(alignments, T, decltype(std::tuple<float, double>{})) {
  device::cuda gpu;
  device::cpu cpu(2);
  const double most = sizeof(T) == 8 ? 1e-12 : testing::cuda_tolerance::head_gradient.fp32;
  const auto all =
      0.5 * frobenius() + 0.25 * frobenius(layers::average, scope::sequence) + 2 * cosine() + 0.1 * mse();
  for (const auto& [pairs, batch, time, width] :
       {std::array<index, 4>{1, 1, 1, 3}, {2, 3, 4, 19}, {1, 2, 64, 33}, {3, 5, 65, 64}, {2, 70, 130, 5}})
    for (const bool masked : {false, true}) {
      const auto got = aligned<T>(gpu, pairs, batch, time, width, masked, all);
      const auto want = aligned<double>(cpu, pairs, batch, time, width, masked, all);
      for (std::size_t i = 0; i < got.size(); ++i) check_close("alignment", got[i], want[i], most);
      BOOST_TEST(got.back() == aligned<T>(gpu, pairs, batch, time, width, masked, all).back(),
                 boost::test_tools::per_element());
      for (const alignment form : {alignment::average, alignment::paper, alignment::cosine, alignment::mse}) {
        any_objective chosen;
        chosen.add({.form = form, .weight = 0.7});
        const auto on_gpu = aligned<T>(gpu, pairs, batch, time, width, masked, chosen);
        const auto on_cpu = aligned<double>(cpu, pairs, batch, time, width, masked, chosen);
        for (std::size_t i = 0; i < on_gpu.size(); ++i)
          check_close("chosen at run time", on_gpu[i], on_cpu[i], most);
      }
    }
}

/// Nothing in them waits for the host.
BOOST_AUTO_TEST_CASE(recorded) {
  constexpr index batch = 6, time = 70, n = batch * time, width = 64, vocabulary = 1000;
  using D = device::basic_cuda<bf16_mixed>;
  D gpu;
  const auto o = (0.4 * kl(1.7) + 0.5 * cross_entropy() + 0.1 * term(alignment::block_wise)).at<float>(now);
  using numbers = on_device<float, D>;
  const numbers hs(gpu, random_numbers(n * width, 1)), ht(gpu, random_numbers(n * width, 2)),
      weight(gpu, random_numbers(vocabulary * width, 3)), dhs(gpu, n * width);
  std::vector<double> targets;
  for (index i = 0; i < n; ++i) targets.push_back(static_cast<double>(i * 7 % vocabulary));
  const on_device<std::int32_t, D> ids(gpu, targets);
  const on_device<double, D> totals(gpu, 4), aligned_totals(gpu, 3);
  const matrix_view<const float> s(hs.data(), n, width), t(ht.data(), n, width);
  const matrix_view<float> g(dhs.data(), n, width);
  const hidden_pair<float> pair{s, t, g};
  const auto work = [&] {
    head(gpu, o.logits, s, t, matrix_view<const float>(weight.data(), vocabulary, width), ids.data(), nullptr,
         0.01f, g, totals.data());
    align(gpu, o.hidden, sequence_view{batch, time}, std::span<const hidden_pair<float>>(&pair, 1), nullptr,
          1.f, aligned_totals.data());
  };
  const auto results = [&] {
    auto all = dhs.numbers();
    for (const auto& more : {totals.numbers(), aligned_totals.numbers()})
      all.insert(all.end(), more.begin(), more.end());
    return all;
  };
  work();
  const auto want = results();
  const auto graph = gpu.record(work);
  const std::vector<float> nothing(static_cast<std::size_t>(n * width), std::nanf(""));
  gpu.upload(dhs.data(), nothing.data(), dhs.bytes());
  gpu.launch(graph);
  BOOST_TEST(results() == want, boost::test_tools::per_element());
  gpu.discard(graph);
}

}  // namespace distil_xlstm::loss
