#include "gpu.hpp"

#include <distil_xlstm/device/cuda.cuh>

#include "../comparison/batch.hpp"

// Texts beside one another, as on the CPU.
namespace distil_xlstm {

using device::cuda;

BOOST_AUTO_TEST_CASE(tokens_are_chosen_as_by_a_sampler) {
  cuda gpu;
  testing::chooses_as_a_sampler<double>(gpu);
  testing::chooses_as_a_sampler<float>(gpu);
}
BOOST_AUTO_TEST_CASE(no_token_of_probability_0_is_chosen) {
  cuda gpu;
  testing::chooses_what_is_possible<double>(gpu);
  testing::chooses_what_is_possible<float>(gpu);
}

BOOST_AUTO_TEST_CASE(a_text_is_the_same_whoever_is_beside_it) {
  cuda gpu;
  device::basic_cuda<bf16_mixed> rounding;
  for (const index capacity : {3, 12, 40}) {
    const decoder_options options{.capacity = capacity, .part = 16, .prompts = 3, .patience = 2};
    testing::same_alone_and_beside<double>(gpu, options, 60);
    testing::same_alone_and_beside<float>(gpu, options, 60);
    testing::same_alone_and_beside<float>(rounding, options, 60);
    testing::same_alone_and_beside<float, testing::random_window_teacher>(gpu, options, 60);
    auto bounded = options;
    bounded.context = 3 * 16 + 25;
    testing::same_alone_and_beside<float, testing::random_teacher>(gpu, bounded, 60);
    testing::same_alone_and_beside<float, testing::random_teacher>(rounding, bounded, 60);
    testing::same_alone_and_beside<float, testing::random_plain_teacher>(rounding, bounded, 60);
  }
}

BOOST_AUTO_TEST_CASE(a_text_is_what_a_reader_writes) {
  cuda gpu;
  testing::same_as_a_reader<double>(gpu, {.capacity = 16, .part = 8}, 30, 1e-12);
  testing::same_as_a_reader<float>(gpu, {.capacity = 16, .part = 8}, 30, 1e-4);
}

BOOST_AUTO_TEST_CASE(long_prompts_stop_nobody) {
  cuda gpu;
  testing::nobody_waits<float>(gpu, {.capacity = 4, .part = 8, .prompts = 1, .patience = 0});
  testing::nobody_waits<float>(gpu, {.capacity = 4, .part = 8, .prompts = 3, .patience = 3});
}

BOOST_AUTO_TEST_CASE(who_joins_leaves_and_fails) {
  cuda gpu;
  testing::odd_company<float>(gpu);
  testing::odd_company<double>(gpu);
}

BOOST_AUTO_TEST_CASE(a_text_that_was_saved_goes_on) {
  cuda gpu;
  testing::saved_and_forked<float>(gpu, 0);
  testing::saved_and_forked<float, testing::random_teacher>(gpu, 40);
  testing::outgrown<float>(gpu);
}

}  // namespace distil_xlstm
