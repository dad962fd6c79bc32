#include <boost/test/unit_test.hpp>

#include <cmath>
#include <vector>

#include <distil_xlstm/core/rng.hpp>
#include <distil_xlstm/device/cpu.hpp>
#include <distil_xlstm/loss/alignment.hpp>
#include <distil_xlstm/loss/distillation.hpp>

namespace distil_xlstm::loss {
namespace {

constexpr index batch = 3, time = 4, n = batch * time, width = 19, tensors = 2;
constexpr schedule::clock now{};

struct stack {
  std::vector<std::vector<double>> s, t, g;
  std::vector<std::uint8_t> scored{1, 1, 1, 0, 0, 0, 0, 0, 1, 0, 1, 1};  // the second sequence is padding only
  explicit stack(index count) {
    rng r(5);
    for (index l = 0; l < count; ++l) {
      auto& a = s.emplace_back();
      auto& b = t.emplace_back();
      for (index i = 0; i < n * width; ++i) a.push_back(r.normal()), b.push_back(2 * r.normal() + 0.3);
      g.emplace_back(static_cast<std::size_t>(n * width), 0.0);
    }
  }
  std::vector<hidden_pair<double>> pairs(bool gradient) {
    std::vector<hidden_pair<double>> p;
    for (std::size_t l = 0; l < s.size(); ++l) {
      p.push_back({{s[l].data(), n, width}, {t[l].data(), n, width}});
      if (gradient) p.back().gradient = {g[l].data(), n, width};
    }
    return p;
  }
};

/// The definition, written out.
double naive(const stack& x, alignment form, bool masked) {
  const auto count = static_cast<double>(x.s.size());
  std::vector<double> per_layer, batched_state, cosines;
  double total = 0, numbers = 0;
  for (std::size_t l = 0; l < x.s.size(); ++l) {
    double layer = 0;
    for (index b = 0; b < batch; ++b) {
      double sequence = 0;
      bool any = false;
      for (index t = 0; t < time; ++t) {
        const auto r = static_cast<std::size_t>(b * time + t);
        if (masked && !x.scored[r]) continue;
        any = true;
        double st = 0, ss = 0, tt = 0;
        for (std::size_t c = 0; c < width; ++c) {
          const double u = x.s[l][r * width + c], v = x.t[l][r * width + c];
          sequence += (u - v) * (u - v);
          st += u * v, ss += u * u, tt += v * v;
          numbers += 1;
        }
        cosines.push_back(1 - st / std::sqrt(ss * tt));
      }
      layer += sequence;
      if (any) batched_state.push_back(std::sqrt(sequence));
    }
    total += layer;
    per_layer.push_back(std::sqrt(layer));
  }
  const auto mean = [](const std::vector<double>& v) {
    double sum = 0;
    for (double y : v) sum += y;
    return sum / static_cast<double>(v.size());
  };
  switch (form) {
    case alignment::average: return count == 1 ? std::sqrt(total / numbers) : -1;
    case alignment::ratio: return mean(per_layer) / std::sqrt(numbers);
    case alignment::block_wise:
    case alignment::paper: return mean(batched_state) / std::sqrt(numbers);
    case alignment::cosine: return mean(cosines);
    case alignment::mse: return total / numbers;
    default: return 0;
  }
}

template <class Term>
void check(const Term& term, index count, double expected, bool masked) {
  device::cpu cpu(2);
  stack x(count);
  const sequence_view sequence{batch, time};
  const auto* scored = masked ? x.scored.data() : nullptr;
  const auto value = [&] {
    const auto pairs = x.pairs(false);
    return align(cpu, term, sequence, std::span<const hidden_pair<double>>(pairs), scored, 1.0).value;
  };
  const auto pairs = x.pairs(true);
  const auto got = align(cpu, term, sequence, std::span<const hidden_pair<double>>(pairs), scored, 0.5);
  BOOST_TEST(got.value == expected, boost::test_tools::tolerance(1e-12));
  BOOST_TEST(got.rows == (masked ? 6 : n));
  BOOST_TEST(value() == got.value);
  double worst = 0, largest = 0;
  for (std::size_t l = 0; l < x.s.size(); ++l)
    for (std::size_t i = 0; i < x.s[l].size(); i += 3) {
      double& v = x.s[l][i];
      const double keep = v, h = 1e-5;
      v = keep + h;
      const double up = value();
      v = keep - h;
      const double down = value();
      v = keep;
      worst = std::max(worst, std::abs(0.5 * (up - down) / (2 * h) - x.g[l][i]));
      largest = std::max(largest, std::abs(x.g[l][i]));
      if (masked && !x.scored[i / width]) BOOST_TEST(x.g[l][i] == 0);
    }
  BOOST_TEST(worst / largest < 1e-7);
  // A second call adds.
  const auto once = x.g;
  align(cpu, term, sequence, std::span<const hidden_pair<double>>(pairs), scored, 0.5);
  for (std::size_t i = 0; i < once[0].size(); ++i) BOOST_TEST(x.g[0][i] == 2 * once[0][i]);
}

}  // namespace

BOOST_AUTO_TEST_CASE(every_form_is_its_definition) {
  for (bool masked : {false, true})
    for (auto form : {alignment::average, alignment::ratio, alignment::block_wise, alignment::paper,
                      alignment::cosine, alignment::mse})
      for (index count : {index{1}, tensors}) {
        if (count > 1 && form == alignment::average) continue;
        const double expected = naive(stack(count), form, masked);
        check(term(form).at<double>(now).hidden, count, expected, masked);
      }
  check(frobenius().at<double>(now).hidden, 1, naive(stack(1), alignment::average, true), true);
  check(frobenius(layers::average, scope::sequence).at<double>(now).hidden, 2,
        naive(stack(2), alignment::block_wise, true), true);
}

BOOST_AUTO_TEST_CASE(sums_of_terms_with_different_scopes) {
  const stack x(tensors);
  const auto o =
      (0.5 * frobenius() + 0.25 * frobenius(layers::average, scope::sequence) + 2 * cosine() + 0.1 * mse())
          .at<double>(now);
  check(o.hidden, tensors,
        0.5 * naive(x, alignment::ratio, true) + 0.25 * naive(x, alignment::block_wise, true) +
            2 * naive(x, alignment::cosine, true) + 0.1 * naive(x, alignment::mse, true),
        true);
}

/// The batch's sequences one by one, as parts of a step: what is a mean over rows or sequences is that of the whole,
/// a root over a batch is each part's own, and the mean is taken over the parts.
BOOST_AUTO_TEST_CASE(parts_of_a_step_weigh_what_their_means_are_taken_over) {
  device::cpu cpu(2);
  const auto in_parts = [&](const auto& term, stack& x) {
    double value = 0;
    const auto whole = x.pairs(true);
    for (index b = 0; b < batch; ++b) {
      std::vector<hidden_pair<double>> part;
      for (const auto& p : whole)
        part.push_back({p.student.slice(b * time, time), p.target.slice(b * time, time),
                        p.gradient.slice(b * time, time)});
      value += align(cpu, term, sequence_view{1, time}, std::span<const hidden_pair<double>>(part), nullptr,
                     0.5, batch)
                   .value;
    }
    return value;
  };
  const auto same = [&](const char* name, const auto& term) {
    for (index count : {index{1}, tensors}) BOOST_TEST_CONTEXT(name << " of " << count) {
        stack parts(count), whole(count);
        const double value = in_parts(term, parts);
        const auto pairs = whole.pairs(true);
        BOOST_TEST(value == align(cpu, term, sequence_view{batch, time},
                                  std::span<const hidden_pair<double>>(pairs), nullptr, 0.5)
                                .value,
                   boost::test_tools::tolerance(1e-14));
        for (std::size_t l = 0; l < whole.g.size(); ++l)
          for (std::size_t i = 0; i < whole.g[l].size(); ++i)
            BOOST_TEST(std::abs(parts.g[l][i] - whole.g[l][i]) <= 1e-15);
      }
  };
  for (auto form : {alignment::block_wise, alignment::paper, alignment::cosine, alignment::mse})
    same(name_of(form).data(), term(form).at<double>(now).hidden);
  same("frobenius of a row", frobenius(layers::average, scope::row).at<double>(now).hidden);
  same("frobenius of a sequence", frobenius(layers::average, scope::sequence).at<double>(now).hidden);
  same(
      "several scopes",
      (0.25 * frobenius(layers::average, scope::sequence) + 2 * cosine() + 0.1 * mse()).at<double>(now).hidden);
  // The mean of roots, each with its own gradient.
  const auto root = frobenius().at<double>(now).hidden;
  stack parts(1), one(1);
  const double value = in_parts(root, parts);
  double mean = 0;
  const auto pairs = one.pairs(true);
  for (index b = 0; b < batch; ++b) {
    const hidden_pair<double> part{pairs[0].student.slice(b * time, time),
                                   pairs[0].target.slice(b * time, time),
                                   pairs[0].gradient.slice(b * time, time)};
    mean += align(cpu, root, sequence_view{1, time}, std::span<const hidden_pair<double>>(&part, 1), nullptr,
                  0.5 / batch)
                .value /
            batch;
  }
  BOOST_TEST(value == mean, boost::test_tools::tolerance(1e-14));
  for (std::size_t i = 0; i < one.g[0].size(); ++i) BOOST_TEST(std::abs(parts.g[0][i] - one.g[0][i]) <= 1e-15);
  // What other parts leave out is not known.
  BOOST_CHECK_THROW(align(cpu, root, sequence_view{batch, time}, std::span<const hidden_pair<double>>(pairs),
                          one.scored.data(), 1.0, 2),
                    error);
}

BOOST_AUTO_TEST_CASE(edges) {
  device::cpu cpu(1);
  stack x(1);
  const sequence_view sequence{batch, time};
  const std::vector<std::uint8_t> nobody(n, 0);
  const auto term = frobenius().at<double>(now).hidden;
  auto pairs = x.pairs(true);
  const auto run = [&](const auto& t, const std::uint8_t* scored) {
    return align(cpu, t, sequence, std::span<const hidden_pair<double>>(pairs), scored, 1.0);
  };
  BOOST_TEST(run(term, nobody.data()).value == 0);
  BOOST_TEST(x.g[0] == std::vector<double>(n * width, 0.0));
  pairs[0].target = pairs[0].student;  // equal states: value and gradient are 0, not NaN
  BOOST_TEST(run(term, nullptr).value == 0);
  BOOST_TEST(x.g[0] == std::vector<double>(n * width, 0.0));
  pairs[0].target.cols = 3;
  BOOST_CHECK_THROW(run(term, nullptr), error);
  pairs.clear();
  BOOST_CHECK_THROW(run(term, nullptr), error);
  BOOST_TEST(run((0 * frobenius()).at<double>(now).hidden, nullptr).value == 0);
  BOOST_TEST(run(cross_entropy().at<double>(now).hidden, nullptr).value == 0);
}

}  // namespace distil_xlstm::loss
