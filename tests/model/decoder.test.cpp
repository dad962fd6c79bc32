#define BOOST_TEST_MODULE decoder
#include <algorithm>
#include <utility>
#include <vector>

#include <boost/test/unit_test.hpp>

#include <distil_xlstm/device/cpu.hpp>

#include "../comparison/batch.hpp"

namespace distil_xlstm {

using device::cpu;
using cpu_bf16 = device::basic_cpu<bf16_mixed>;

BOOST_AUTO_TEST_CASE(tokens_are_chosen_as_by_a_sampler) {
  for (const int threads : {1, 2}) {
    cpu host(threads);
    testing::chooses_as_a_sampler<double>(host);
    testing::chooses_as_a_sampler<float>(host);
  }
}

// What the next case rests on.
BOOST_AUTO_TEST_CASE(what_a_row_gives_does_not_depend_on_how_many_there_are) {
  const auto compare = []<class T>(auto& host, T, index n, index k) {
    const index most = 40, few = cpu::few_rows;
    rng random(4);
    std::vector<T> a(static_cast<std::size_t>(most * k)), b(static_cast<std::size_t>(n * k));
    for (auto* v : {&a, &b})
      for (T& x : *v) x = static_cast<T>(random.normal());
    const auto product = [&](index rows) {
      std::vector<T> c(static_cast<std::size_t>(rows * n));
      gemm(host, matrix_view<const T>(a.data(), rows, k), transposed(matrix_view<const T>(b.data(), n, k)),
           matrix_view<T>(c.data(), rows, n));
      return c;
    };
    const auto whole = product(most), little = product(few);
    for (const index rows : {1, 2, 5, 8, 9, 13, 16, 17, 31}) {
      const auto& want = rows <= few ? little : whole;
      const auto got = product(rows);
      BOOST_TEST(std::equal(got.begin(), got.end(), want.begin()), rows << " x " << n << " x " << k);
    }
  };
  cpu host(2);
  cpu_bf16 rounding(2);
  for (const auto& [n, k] : {std::pair<index, index>{100, 64}, {300, 5000}, {4100, 4600}}) {
    compare(host, float(), n, k);
    compare(host, double(), n, k);
    compare(rounding, float(), n, k);
  }
}

// Few places, whose products are summed as those of one row are, and more.
BOOST_AUTO_TEST_CASE(a_text_is_the_same_whoever_is_beside_it) {
  cpu host(2);
  cpu_bf16 rounding(2);
  for (const index capacity : {3, 12}) {
    const decoder_options options{.capacity = capacity, .part = 16};
    testing::same_alone_and_beside<double>(host, options, 40);
    testing::same_alone_and_beside<float>(host, options, 40);
    testing::same_alone_and_beside<float>(rounding, options, 40);
    testing::same_alone_and_beside<double, testing::random_window_teacher>(host, options, 40);
    testing::same_alone_and_beside<float, testing::random_window_teacher>(host, options, 40);
    auto bounded = options;
    bounded.context = 3 * 16 + 25;
    testing::same_alone_and_beside<double, testing::random_teacher>(host, bounded, 40);
    testing::same_alone_and_beside<float, testing::random_teacher>(host, bounded, 40);
    testing::same_alone_and_beside<float, testing::random_teacher>(rounding, bounded, 40);
  }
}

BOOST_AUTO_TEST_CASE(a_text_is_what_a_reader_writes) {
  cpu host(2);
  for (const index capacity : {4, 16}) {
    testing::same_as_a_reader<double>(host, {.capacity = capacity, .part = 8}, 30, 1e-12);
    testing::same_as_a_reader<float>(host, {.capacity = capacity, .part = 8}, 30, 1e-4);
    testing::same_as_a_reader<double, testing::random_window_teacher>(host, {.capacity = capacity, .part = 8},
                                                                      30, 1e-12);
    const decoder_options bounded{.capacity = capacity, .context = 50, .part = 8};
    testing::same_as_a_reader<double, testing::random_teacher>(host, bounded, 30, 1e-12);
    testing::same_as_a_reader<float, testing::random_teacher>(host, bounded, 30, 1e-4);
  }
}

BOOST_AUTO_TEST_CASE(long_prompts_stop_nobody) {
  cpu host(1);
  testing::nobody_waits<float>(host, {.capacity = 4, .part = 8});
  testing::nobody_waits<float>(host, {.capacity = 12, .part = 8, .patience = 0});
}

BOOST_AUTO_TEST_CASE(who_joins_leaves_and_fails) {
  cpu host(2);
  testing::odd_company<float>(host);
  testing::odd_company<double>(host);
}

BOOST_AUTO_TEST_CASE(a_text_that_was_saved_goes_on) {
  cpu host(2);
  testing::saved_and_forked<double>(host, 0);
  testing::saved_and_forked<float>(host, 0);
  testing::saved_and_forked<float, testing::random_window_teacher>(host, 0);
  testing::saved_and_forked<float, testing::random_teacher>(host, 40);
}

BOOST_AUTO_TEST_CASE(a_text_that_outgrows_its_place_leaves) {
  cpu host(2);
  testing::outgrown<float>(host);
}

}  // namespace distil_xlstm
