#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <boost/test/unit_test.hpp>

#include <distil_xlstm/device/cpu.hpp>
#include <distil_xlstm/model/language_model.hpp>

#include "../comparison/batch.hpp"
#include "../refused.hpp"

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
BOOST_AUTO_TEST_CASE(no_token_of_probability_0_is_chosen) {
  cpu host(2);
  testing::chooses_what_is_possible<double>(host);
  testing::chooses_what_is_possible<float>(host);
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

// Version 1 of the format knew a model by its tensors alone.
BOOST_AUTO_TEST_CASE(a_saved_text_knows_its_model) {
  cpu host(1);
  const testing::random_teacher<float, cpu> s(host);
  constexpr index context = 40;
  const std::vector<std::int32_t> ids = {3, 1, 4, 1, 5};
  const buffer<float, cpu> memory(host, 5 * s.width);
  reader first(host, s.model, context);
  first.read(ids, {memory.data(), 5, s.width});
  const auto saved = first.save();
  const auto fingerprint = s.model.fingerprint(host);

  const std::function<void(llama_config&)> changes[] = {
      [](auto& c) { c.theta *= 2; },
      [](auto& c) { c.scaling.factor = 4; },
      [](auto& c) { c.scaling.original = 128; },
      [](auto& c) { c.scaling.type = rope_scaling::kind::linear; },
      [](auto& c) { c.scaling.type = rope_scaling::kind::none; },
      [](auto& c) { c.epsilon = 1e-5; },
      [](auto& c) {
        c.rotates = {false, true};
      },
      [](auto& c) { c.window = 11; }};
  for (const auto& change : changes) {
    llama_config c = s.model.config();
    change(c);
    const auto other = s.model.with(c);
    BOOST_TEST(other.fingerprint(host).tensors == fingerprint.tensors);
    BOOST_TEST(other.fingerprint(host).whole != fingerprint.whole);
    reader there(host, other, context);
    BOOST_CHECK_EXCEPTION(there.restore(saved), error, says("it is another model's"));
  }
  BOOST_TEST((s.model.with(s.model.config()).fingerprint(host) == fingerprint));

  // As version 1 wrote it: magic, version at 8, model at 16, checksum at 88, the numbers from 96 on.
  const auto written = [&](std::uint32_t version, std::uint64_t model) {
    auto bytes = saved;
    std::memcpy(&bytes[8], &version, sizeof version);
    std::memcpy(&bytes[16], &model, sizeof model);
    fnv_hash hash;
    hash.add(bytes.data(), 88), hash.add(bytes.data() + 96, bytes.size() - 96);
    const std::uint64_t checksum = hash.value();
    std::memcpy(&bytes[88], &checksum, sizeof checksum);
    return bytes;
  };
  BOOST_TEST((written(2, fingerprint.whole) == saved));
  reader again(host, s.model, context);
  again.restore(written(1, fingerprint.tensors));
  BOOST_TEST((again.save() == saved));
  BOOST_CHECK_EXCEPTION(again.restore(written(1, fingerprint.whole)), error, says("it is another model's"));
  BOOST_CHECK_EXCEPTION(again.restore(written(2, fingerprint.tensors)), error, says("it is another model's"));
  BOOST_CHECK_EXCEPTION(again.restore(written(3, fingerprint.whole)), error,
                        says("version 3 of the format, this library reads 1 and 2"));
}

// What each family adds to its tensors; a model of any family is known as that of its own.
BOOST_AUTO_TEST_CASE(families_say_what_their_tensors_do_not) {
  const auto of = [](const auto& config) {
    fnv_hash hash;
    config.identify(hash);
    return hash.value();
  };
  const auto differs = [&](const auto& config, const auto& change) {
    auto other = config;
    change(other);
    BOOST_TEST(of(other) != of(config));
    BOOST_TEST(of(any_config(config)) == of(config));
  };
  linearised_config l;
  l.layers = 2, l.mixers = {mixer_kind::hybrid, mixer_kind::window};
  differs(l, [](auto& c) { c.theta = 500000; });
  differs(l, [](auto& c) { c.mixers[1] = mixer_kind::attention; });
  differs(l, [](auto& c) { c.window = 63; });
  differs(l, [](auto& c) { c.llama_config::window = 63; });
  differs(l, [](auto& c) { c.sinks = 3; });
  differs(l, [](auto& c) { c.features = 32; });
  differs(l, [](auto& c) { c.both_signs = false; });
  differs(xlstm_config(), [](auto& c) { c.act = activation::silu; });
  differs(xlstm_config(), [](auto& c) { c.slstm_heads = 2; });
  differs(xlstm_7b_config(), [](auto& c) { c.gate_cap = 0; });
  differs(xlstm_7b_config(), [](auto& c) { c.logit_cap = 0; });
  differs(xlstm_7b_config(), [](auto& c) { c.cell_epsilon = 1e-5; });
}

BOOST_AUTO_TEST_CASE(a_text_that_outgrows_its_place_leaves) {
  cpu host(2);
  testing::outgrown<float>(host);
}

}  // namespace distil_xlstm
