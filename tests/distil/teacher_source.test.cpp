#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include <distil_xlstm/device/cpu.hpp>
#include <distil_xlstm/model/load_llama.hpp>
#include <distil_xlstm/model/random_llama.hpp>

#include "../comparison/teacher_means.hpp"
#include "../temporary_folder.hpp"

namespace distil_xlstm {

using cpu = device::basic_cpu<fp64>;

/// Means of one layer, of even and odd numbers of them, from each end and over each other: several layers a pass or
/// one, the same bits, and those of a range are what its layers' own are.
BOOST_AUTO_TEST_CASE(means_of_layers) {
  constexpr index layers = 11, texts = 3, time = 7, width = 24;
  const temporary_folder folder;
  write_random_llama(folder.path,
                     {.model_type = "llama",
                      .vocabulary = 50,
                      .width = width,
                      .layers = layers,
                      .heads = 2,
                      .kv_heads = 1,
                      .head_dim = 12,
                      .intermediate = 40},
                     dtype::f32, 4);
  cpu device(2);
  const auto teacher = load_llama<double>(device, folder.path);
  std::vector<layer_range> single, all;
  for (index first = 1; first <= layers; ++first) {
    single.push_back({first, first});
    for (index last = first; last <= layers; ++last) all.push_back({first, last});
  }
  const auto means = testing::teacher_means(device, teacher, texts, time, all);
  const testing::forgetful_llama<double, cpu> forgetful{teacher};
  BOOST_TEST((means == testing::teacher_means(device, forgetful, texts, time, all)));

  const auto alone = testing::teacher_means(device, teacher, texts, time, single);
  constexpr std::size_t each = texts * time * width;
  BOOST_TEST(alone.size() == layers * each);
  double worst = 0;
  for (std::size_t i = 0; i < means.size(); ++i) {
    const auto [first, last] = all[i / each];
    double sum = 0;
    for (index layer = first; layer <= last; ++layer)
      sum += alone[static_cast<std::size_t>(layer - 1) * each + i % each];
    worst = std::max(worst, std::abs(means[i] - sum / static_cast<double>(last - first + 1)));
  }
  BOOST_TEST(worst <= 1e-13);
}

}  // namespace distil_xlstm
