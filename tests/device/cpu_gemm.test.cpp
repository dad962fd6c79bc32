#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <tuple>
#include <vector>

#include <boost/test/unit_test.hpp>
#include <distil_xlstm/device/cpu/gemm.hpp>
#include <distil_xlstm/device/cpu/gemm_targets.hpp>
#include <distil_xlstm/testing/tolerances.hpp>

namespace distil_xlstm::device::detail {
namespace {

/// A small generator, the same everywhere.
struct noise {
  std::uint64_t state = 88172645463325252u;
  std::uint64_t bits() {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return state;
  }
  double uniform() { return static_cast<double>(bits() >> 11) * 0x1p-53 * 2 - 1; }
};

/// A stored matrix of random numbers and what they are.
struct stored_matrix {
  std::vector<char> bytes;
  std::vector<double> values;  // as memory has them: rows x ld
  gemm_operand operand;
  double at(index r, index c) const {
    const index i = operand.transposed ? c * operand.ld + r : r * operand.ld + c;
    return values[static_cast<std::size_t>(i)];
  }
};

/// rows x cols (as the product sees it), memory rows `slack` numbers longer than they need be.
stored_matrix random_matrix(noise& rng, index rows, index cols, dtype type, bool transposed, index slack) {
  const index memory_rows = transposed ? cols : rows;
  const auto [numbers, block, name] = traits(type);
  const index ld = ((transposed ? rows : cols) + slack + numbers - 1) / numbers * numbers;
  stored_matrix s;
  s.bytes.resize(static_cast<std::size_t>(row_bytes(type, ld) * memory_rows + 1));
  s.values.resize(static_cast<std::size_t>(ld * memory_rows));
  char* p = s.bytes.data();
  if (numbers == 1) {
    for (index i = 0; i < ld * memory_rows; ++i, p += block) {
      const double x = rng.uniform();
      const auto f = static_cast<float>(x);
      const bf16 b(f);
      const auto h = static_cast<std::uint16_t>((rng.bits() & 0x83ffu) | ((10 + rng.bits() % 5) << 10));
      const void* from = type == dtype::f64   ? static_cast<const void*>(&x)
                         : type == dtype::f32 ? static_cast<const void*>(&f)
                         : type == dtype::f16 ? static_cast<const void*>(&h)
                                              : static_cast<const void*>(&b);
      std::memcpy(p, from, static_cast<std::size_t>(block));
    }
  } else {
    for (index i = 0; i < ld / numbers * memory_rows; ++i, p += block) {
      for (index j = 0; j < block; ++j) p[j] = static_cast<char>(rng.bits());
      const std::uint16_t scales[2] = {0x1c00, 0x1800};  // small and finite
      if (type == dtype::q6_k)
        std::memcpy(p + 208, scales, 2);
      else
        std::memcpy(p, scales, type == dtype::q4_1 || type == dtype::q4_k ? 4 : 2);
    }
  }
  unpack(type, s.bytes.data(), ld * memory_rows, s.values.data());
  s.operand = {s.bytes.data(), ld, type, transposed};
  return s;
}

template <class T>
struct named_target {
  gemm_target<T> target;
  bool rounds;  // operands to bf16
};

template <class T>
std::vector<named_target<T>> targets() {
  std::vector<named_target<T>> all{{portable_target<T>(), false}, {native_target<T>(), false}};
#if defined(DISTIL_XLSTM_X86)
  using narrow = std::conditional_t<sizeof(T) == 4, avx2_f32, avx2_f64>;
  if (has_avx2()) all.push_back({avx2_target<narrow>(), false});
#endif
  if constexpr (sizeof(T) == 4) {
    all.push_back({native_bf16_target(), true});
    gemm_target<float> rounding = portable_target<float>();
    rounding.direct = dtype::u8, rounding.fetch = fetch_rounded;
    all.push_back({rounding, true});
  }
  return all;
}

/// The largest error of a product over all elements, in units of eps * sum |a b|.
template <class T>
double worst_error(const named_target<T>& t, index m, index n, index k, const stored_matrix& a,
                   const stored_matrix& b, T beta, noise& rng) {
  const index ldc = n + 3;
  std::vector<T> c(static_cast<std::size_t>(m * ldc)), before;
  for (T& x : c) x = beta == 0 ? std::numeric_limits<T>::quiet_NaN() : static_cast<T>(rng.uniform());
  before = c;
  gemm_scratch<T> scratch;
  gemm_block_on(t.target, m, n, k, a.operand, b.operand, beta, c.data(), ldc, scratch);
  const auto rounded = [&](double x) {
    return t.rounds ? static_cast<double>(bf16(static_cast<float>(x))) : x;
  };
  double worst = 0;
  for (index i = 0; i < m; ++i)
    for (index j = 0; j < ldc; ++j) {
      const auto at = static_cast<std::size_t>(i * ldc + j);
      if (j >= n) {  // untouched
        if (std::memcmp(&c[at], &before[at], sizeof(T)) != 0) return 1e30;
        continue;
      }
      double sum = beta == 0 ? 0 : static_cast<double>(beta) * static_cast<double>(before[at]);
      double size = std::abs(sum) + 1e-30;
      for (index p = 0; p < k; ++p) {
        const double term = rounded(a.at(i, p)) * rounded(b.at(p, j));
        sum += term, size += std::abs(term);
      }
      const double error = std::abs(static_cast<double>(c[at]) - sum) / size;
      if (!(error <= worst)) worst = std::isnan(error) ? 1e30 : error;
    }
  return worst / static_cast<double>(std::numeric_limits<T>::epsilon());
}

constexpr index sizes[][3] = {{1, 1, 1},    {1, 17, 65},  {2, 5, 3},     {3, 63, 17},
                              {5, 65, 288}, {7, 3, 130},  {8, 33, 64},   {9, 1, 17},
                              {13, 17, 1},  {17, 65, 63}, {63, 63, 65},  {65, 97, 33},
                              {16, 288, 3}, {64, 48, 64}, {30, 301, 65}, {12, 50, 1027}};

}  // namespace

BOOST_AUTO_TEST_CASE_TEMPLATE(agrees_with_a_naive_product, T, decltype(std::tuple<float, double>{})) {
  noise rng;
  for (const auto& t : targets<T>())
    for (const auto& [m, n, k] : sizes)
      for (const bool ta : {false, true})
        for (const bool tb : {false, true})
          for (const T beta : {T(0), T(1), T(-0.5)}) {
            const index slack = beta == T(0) ? 0 : 5;
            const auto a = random_matrix(rng, m, k, dtype_of<T>, ta, slack);
            const auto b = random_matrix(rng, k, n, dtype_of<T>, tb, slack);
            const double worst = worst_error(t, m, n, k, a, b, beta, rng);
            BOOST_TEST(worst < 8 + std::sqrt(k), t.target.name << " " << m << "x" << n << "x" << k << " " << ta
                                                               << tb << " beta " << beta << ": " << worst);
          }
}

BOOST_AUTO_TEST_CASE_TEMPLATE(reads_every_stored_kind, T, decltype(std::tuple<float, double>{})) {
  noise rng;
  for (const auto& t : targets<T>())
    for (const dtype type : {dtype::f64, dtype::f32, dtype::bf16, dtype::f16, dtype::q4_0, dtype::q4_1,
                             dtype::q5_0, dtype::q8_0, dtype::q4_k, dtype::q6_k})
      for (const auto& [m, n, k] : {std::array<index, 3>{1, 65, 288},
                                    {3, 63, 31},
                                    {8, 17, 600},
                                    {11, 65, 577},
                                    {33, 290, 64},
                                    {17, 49, 1100}})
        for (const int form : {0, 1, 2, 3, 4}) {
          const bool ta = form == 3 || form == 4;
          const auto a = random_matrix(rng, m, k, form < 2 ? dtype_of<T> : type, ta, form);
          const auto b = random_matrix(rng, k, n, form == 2 ? dtype_of<T> : type, form == 1 || form == 2, form);
          const double worst = worst_error(t, m, n, k, a, b, T(form % 2), rng);
          const bool rounds = sizeof(T) == 4 && m <= direct_rows && multiplies_blocks(type) && k % 32 == 0;
          const double allowed = rounds ? testing::tolerance<float>::rows_of_8_bits / 0x1p-23 : 0;
          BOOST_TEST(worst < 8 + std::sqrt(k) + allowed, t.target.name << " " << traits(type).name << " " << m
                                                                       << "x" << n << "x" << k << " form "
                                                                       << form << ": " << worst);
        }
}

BOOST_AUTO_TEST_CASE(few_rows_of_blocks_are_rounded_and_no_more) {
  noise rng;
  for (const auto& t : targets<float>())
    for (const dtype type : {dtype::q8_0, dtype::q4_0, dtype::q4_1})
      for (const index k : {32, 64, 256, 288, 576, 1536})
        for (index m = 1; m <= direct_rows; ++m) {
          const index n = 37, blocks = k / 32;
          auto a = random_matrix(rng, m, k, dtype::f32, false, 0);
          const auto b = random_matrix(rng, k, n, type, true, 0);
          // What is left of the rows: off by half a step of 127, and so multiplied as they are.
          std::vector<std::byte> memory(static_cast<std::size_t>(rounded_row::bytes(blocks)));
          const rounded_row row(memory.data(), blocks);
          auto* x = reinterpret_cast<float*>(a.bytes.data());
          std::vector<double> left(static_cast<std::size_t>(m * k));
          for (index i = 0; i < m; ++i) {
            t.target.blocks.round(x + i * k, blocks, row);
            for (index p = 0; p < k; ++p) {
              auto& each = left[static_cast<std::size_t>(i * k + p)];
              each = static_cast<double>(row.scale[p / 32]) * row.q[p];
              BOOST_TEST(std::abs(each - static_cast<double>(x[i * k + p])) <=
                         0.501 * static_cast<double>(row.scale[p / 32]));
            }
          }
          a.values = left;
          named_target<float> exact = t;
          exact.rounds = false;
          const double worst = worst_error(exact, m, n, k, a, b, m % 2 == 0 ? 0.0f : 0.5f, rng);
          BOOST_TEST(worst < 8 + std::sqrt(k),
                     t.target.name << " " << traits(type).name << " " << m << "x" << k << ": " << worst);
        }
}

BOOST_AUTO_TEST_CASE(blocks_give_the_same_bits_on_avx2_and_vnni) {
#if defined(DISTIL_XLSTM_X86)
  if (!has_avx512_vnni()) return;
  noise rng;
  gemm_target<float> wide = native_target<float>(), narrow = avx2_target<avx2_f32>();
  for (const dtype type : {dtype::q8_0, dtype::q4_0, dtype::q4_1}) {
    const index m = 7, n = 101, k = 1120;
    const auto a = random_matrix(rng, m, k, dtype::f32, false, 0);
    const auto b = random_matrix(rng, k, n, type, true, 0);
    std::vector<float> first(static_cast<std::size_t>(m * n)), second = first, one = first;
    gemm_scratch<float> scratch;
    gemm_block_on(wide, m, n, k, a.operand, b.operand, 0.0f, first.data(), n, scratch);
    gemm_block_on(narrow, m, n, k, a.operand, b.operand, 0.0f, second.data(), n, scratch);
    BOOST_TEST(std::memcmp(first.data(), second.data(), first.size() * 4) == 0);
    // And a row is the same, whoever is beside it.
    for (index i = 0; i < m; ++i) {
      gemm_operand row = a.operand;
      row.data = static_cast<const float*>(row.data) + i * k;
      gemm_block_on(wide, 1, n, k, row, b.operand, 0.0f, one.data() + i * n, n, scratch);
    }
    BOOST_TEST(std::memcmp(first.data(), one.data(), first.size() * 4) == 0);
  }
#endif
}

BOOST_AUTO_TEST_CASE(what_is_not_finite_stays_so) {
  noise rng;
  for (const auto& t : targets<float>())
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      const index n = 5, k = 96;
      auto a = random_matrix(rng, 1, k, dtype::f32, false, 0);
      reinterpret_cast<float*>(a.bytes.data())[40] = bad;
      const auto b = random_matrix(rng, k, n, dtype::q8_0, true, 0);
      std::vector<float> c(static_cast<std::size_t>(n));
      gemm_scratch<float> scratch;
      gemm_block_on(t.target, 1, n, k, a.operand, b.operand, 0.0f, c.data(), n, scratch);
      for (const float each : c) BOOST_TEST(!std::isfinite(each));
    }
}

BOOST_AUTO_TEST_CASE(sums_do_not_depend_on_how_rows_and_columns_are_split) {
  noise rng;
  const index n = 331, k = 1300;
  for (const auto& t : targets<float>())
    for (const index m : {index{8}, index{75}})
      for (const bool tb : {false, true}) {
        const auto a = random_matrix(rng, m, k, dtype::f32, false, 0);
        const auto b = random_matrix(rng, k, n, dtype::bf16, tb, 0);
        std::vector<float> whole(static_cast<std::size_t>(m * n)), parts = whole;
        gemm_scratch<float> scratch;
        gemm_block_on(t.target, m, n, k, a.operand, b.operand, 0.0f, whole.data(), n, scratch);
        const index row_step = m > direct_rows ? 25 : 3;
        for (index r = 0; r < m; r += row_step)
          for (index j = 0; j < n; j += 53) {
            gemm_operand left = a.operand, right = b.operand;
            left.data = static_cast<const float*>(left.data) + r * left.ld;
            right.data = static_cast<const bf16*>(right.data) + (tb ? j * right.ld : j);
            gemm_block_on(t.target, std::min(row_step, m - r), std::min<index>(53, n - j), k, left, right, 0.0f,
                          parts.data() + r * n + j, n, scratch);
          }
        BOOST_TEST(std::memcmp(whole.data(), parts.data(), whole.size() * 4) == 0,
                   t.target.name << " " << m << tb);
      }
}

BOOST_AUTO_TEST_CASE(float_sums_are_the_same_on_every_vector_width) {
#if defined(DISTIL_XLSTM_X86)
  if (!has_avx512()) return;
  noise rng;
  const index m = 37, n = 101, k = 1111;
  const auto a = random_matrix(rng, m, k, dtype::f32, true, 0),
             b = random_matrix(rng, k, n, dtype::f16, true, 0);
  std::vector<float> wide(static_cast<std::size_t>(m * n)), narrow = wide;
  gemm_scratch<float> scratch;
  gemm_block_on(avx512_target<avx512_f32>(), m, n, k, a.operand, b.operand, 0.0f, wide.data(), n, scratch);
  gemm_block_on(avx2_target<avx2_f32>(), m, n, k, a.operand, b.operand, 0.0f, narrow.data(), n, scratch);
  BOOST_TEST(std::memcmp(wide.data(), narrow.data(), wide.size() * 4) == 0);
#endif
}

BOOST_AUTO_TEST_CASE(larger_than_every_block) {
  noise rng;
  for (const auto& t : targets<float>()) {
    const index m = 800, n = 310, k = 1090;
    const auto a = random_matrix(rng, m, k, dtype::f32, false, 1);
    const auto b = random_matrix(rng, k, n, dtype::f32, true, 2);
    BOOST_TEST(worst_error(t, m, n, k, a, b, 1.0f, rng) < 8 + std::sqrt(k));
  }
}

BOOST_AUTO_TEST_CASE(nothing_to_sum) {
  gemm_scratch<float> scratch;
  float c[2] = {std::numeric_limits<float>::quiet_NaN(), 3};
  const gemm_operand none{nullptr, 0, dtype::f32, false};
  gemm_block<float>(1, 1, 0, none, none, 0.0f, c, 1, scratch);
  gemm_block<float>(1, 1, 0, none, none, 2.0f, c + 1, 1, scratch);
  gemm_block<float>(0, 1, 4, none, none, 0.0f, c + 1, 1, scratch);
  BOOST_TEST(c[0] == 0.0f);
  BOOST_TEST(c[1] == 6.0f);
}

}  // namespace distil_xlstm::device::detail
