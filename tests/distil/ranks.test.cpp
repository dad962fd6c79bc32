#include <boost/test/unit_test.hpp>

#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <iterator>

#include <distil_xlstm/device/cpu.hpp>
#include <distil_xlstm/distil/checkpoint.hpp>
#include <distil_xlstm/io/json.hpp>

#include "../comm/thread_ranks.hpp"
#include "../comparison/ranks.hpp"
#include "../device/fenced.hpp"

// Ranks train as one process does: those of threads here, those of MPI in tests/mpi.
namespace distil_xlstm {
namespace {

using testing::trained;
using cpu = device::basic_cpu<fp64>;
const std::string golden = DISTIL_XLSTM_TEST_DATA "/golden";
constexpr double rounding = 1e-12;

/// What each of `size` ranks has, `use(device, ranks)` giving it.
template <class F>
std::vector<trained> on_ranks(index size, const F& use) {
  std::vector<trained> out(static_cast<std::size_t>(size));
  testing::thread_ranks(size).run([&](testing::thread_ranks::rank_type& ranks) {
    cpu device(1);
    out[static_cast<std::size_t>(ranks.rank())] = use(device, comm::any(ranks));
  });
  return out;
}
void compare(const std::vector<trained>& all, const trained& one) {
  for (const auto& of_rank : all) {
    const testing::apart apart(of_rank, one);
    BOOST_TEST(apart.losses <= rounding);
    BOOST_TEST(apart.weights <= rounding);
    BOOST_TEST(same(of_rank, all[0]));
  }
}

}  // namespace

BOOST_AUTO_TEST_CASE(ranks_train_as_one_process) {
  using loss::alignment;
  for (const auto form : {alignment::average, alignment::ratio, alignment::cosine, alignment::mse,
                          alignment::paper, alignment::none}) {
    const auto train = [&](cpu& device, comm::any ranks) {
      return testing::ranks_distil<cpu>(device, golden, form)(ranks);
    };
    cpu device(1);
    const trained one = train(device, {});
    for (const index size : {2, 3}) BOOST_TEST_CONTEXT(loss::name_of(form) << ", " << size << " ranks") {
        compare(on_ranks(size, train), one);
      }
  }
}

/// Where the host does not see the device's memory: what ranks exchange goes through the host's, and what a device has
/// recorded holds no exchange.
BOOST_AUTO_TEST_CASE(ranks_of_a_device_with_memory_of_its_own) {
  using apart = testing::basic_fenced<fp64>;
  apart device(1);
  const trained one = testing::ranks_distil<apart>(device, golden, loss::alignment::ratio)({});
  std::vector<trained> all(2);
  testing::thread_ranks(2).run([&](testing::thread_ranks::rank_type& ranks) {
    apart own(1);
    testing::ranks_distil<apart> train(own, golden, loss::alignment::ratio);
    train.options.shard_optimiser = true;
    all[static_cast<std::size_t>(ranks.rank())] = train(ranks);
  });
  compare(all, one);
}

BOOST_AUTO_TEST_CASE(mixers_of_ranks_learn_as_of_one_process) {
  const auto align = [](cpu& device, comm::any ranks) {
    training_options o;
    o.batch = 6, o.length = 9, o.accumulate = 2, o.total_steps = 8, o.lr = {1e-2};
    return testing::ranks_align(device, golden, ranks, o);
  };
  cpu device(1);
  const trained one = align(device, {});
  for (const index size : {2, 3}) compare(on_ranks(size, align), one);
}

BOOST_AUTO_TEST_CASE(sharded_moments_give_the_same_numbers_in_less_memory) {
  for (const index size : {2, 3}) {
    const auto train = [&](bool sharded) {
      return on_ranks(size, [&](cpu& device, comm::any ranks) {
        testing::ranks_distil<cpu> run(device, golden, loss::alignment::average);
        run.options.shard_optimiser = sharded;
        return run(ranks);
      });
    };
    const auto whole = train(false), parts = train(true);
    index kept = 0;
    for (std::size_t r = 0; r < parts.size(); ++r) {
      BOOST_TEST(same(parts[r], whole[r]));
      BOOST_TEST(parts[r].moments < whole[r].moments);
      kept += parts[r].moments;
    }
    BOOST_TEST(kept == whole[0].moments);
  }
}

/// Layer by layer while backward goes on, or all behind it.
BOOST_AUTO_TEST_CASE(gradients_are_the_same_whenever_they_are_summed) {
  const auto train = [&](index bytes) {
    return on_ranks(3, [&](cpu& device, comm::any ranks) {
      testing::ranks_distil<cpu> run(device, golden, loss::alignment::average);
      run.options.accumulate = 1, run.options.sum_bytes = bytes;
      return run(ranks);
    });
  };
  const auto beside = train(1), behind = train(index{1} << 40);
  for (std::size_t r = 0; r < beside.size(); ++r) BOOST_TEST(same(beside[r], behind[r]));
  cpu device(1);
  testing::ranks_distil<cpu> alone(device, golden, loss::alignment::average);
  alone.options.accumulate = 1;
  compare(beside, alone({}));
}

BOOST_AUTO_TEST_CASE(layers_are_found_by_their_names_where_they_lie_on_end) {
  const auto entries = [](std::initializer_list<std::pair<const char*, index>> all) {
    manifest names;
    for (index at = 0; const auto& [name, size] : all) {
      names.push_back({.name = name, .shape = {size}, .offset = at, .size = size, .initial = {}});
      at += size;
    }
    return names;
  };
  using starts = std::vector<index>;
  using detail::layer_starts;
  const auto good =
      entries({{"embedding", 5}, {"blocks.0.a", 3}, {"blocks.0.b.7", 4}, {"blocks.1.a", 2}, {"norm", 6}});
  BOOST_TEST((layer_starts(good, 2) == starts{5, 12, 14}));
  BOOST_TEST((layer_starts(good, 3) == starts{}));
  BOOST_TEST((layer_starts(entries({{"a.1.x", 3}, {"a.0.x", 3}}), 2) == starts{}));
  BOOST_TEST((layer_starts(entries({{"a.0.x", 3}, {"shared", 1}, {"a.1.x", 3}}), 2) == starts{}));
  BOOST_TEST((layer_starts(entries({{"a0.x", 3}, {"b", 1}}), 0) == starts{}));
}

BOOST_AUTO_TEST_CASE(a_batch_that_ranks_do_not_divide_is_refused) {
  BOOST_CHECK_EXCEPTION(
      on_ranks(4,
               [](cpu& device, comm::any ranks) {
                 return testing::ranks_distil<cpu>(device, golden, loss::alignment::none)(ranks);
               }),
      error, [](const error& e) {
        return std::string(e.what()).find("a batch of 6 windows cannot be dealt out to 4 ranks") !=
               std::string::npos;
      });
}

/// The parts of an arena: in order, all of it, of about one size, and with the decay and rates of what lies there.
BOOST_AUTO_TEST_CASE(shards_are_cut_where_rows_are) {
  const std::vector<optim::parameter_range> ranges{
      {0, 9000, true, 1.0}, {9024, 100, true, 1.0}, {9152, 5000, false, 1.0}, {14208, 30000, false, 0.5}};
  const index n = 44224;
  for (const index parts : {1, 2, 3, 7, 50}) {
    const auto starts = optim::shards_of(n, ranges, parts);
    BOOST_REQUIRE(std::ssize(starts) == parts + 1);
    BOOST_TEST(starts.front() == 0);
    BOOST_TEST(starts.back() == n);
    for (std::size_t p = 0; p + 1 < starts.size(); ++p) {
      BOOST_TEST(starts[p] <= starts[p + 1]);
      BOOST_TEST(starts[p + 1] - starts[p] <= n / parts + 4096 + parts);
      const optim::shard part{starts[p], starts[p + 1]};
      const auto own = optim::ranges_of(part, ranges);
      if (part.size() == 0) continue;
      index covered = 0;
      optim::detail::for_runs(part.size(), own, [&](index from, index to, const optim::parameter_range& of) {
        BOOST_TEST(from == covered);
        covered = to;
        for (const index i :
             {from, to - 1}) {  // whose range of the whole is that in which it lies, or which it follows
          const optim::parameter_range* at = &ranges[0];
          for (const auto& r : ranges)
            if (r.offset <= part.from + i) at = &r;
          BOOST_TEST(at->decay == of.decay);
          BOOST_TEST(at->rate == of.rate);
        }
      });
      BOOST_TEST(covered == part.size());
    }
  }
}

/// A sharded run's checkpoint is an unsharded one's, byte for byte, and goes on with any number of ranks.
BOOST_AUTO_TEST_CASE(checkpoints_do_not_depend_on_the_ranks) {
  namespace fs = std::filesystem;
  std::string name = (fs::temp_directory_path() / "distil_xlstm-ranks-XXXXXX").string();
  BOOST_REQUIRE(::mkdtemp(name.data()));
  const fs::path folder = name;
  const auto content = [](const fs::path& path) {
    std::ifstream in(path, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(in), {});
  };
  const auto run = [&](index size, bool sharded, const std::string& from, const std::string& to) {
    return on_ranks(size, [&](cpu& device, comm::any ranks) {
      testing::ranks_distil<cpu> part(device, golden, loss::alignment::average);
      part.options.shard_optimiser = sharded;
      part.on_trainer = [&](auto& t, bool begins) {
        if (begins && !from.empty()) {
          const auto found =
              checkpoints(folder / from).restore(t, [](const std::string& why) { throw error(why); });
          require(found && found->at("seed") == 4, "no run was found");
        }
        if (!begins && !to.empty()) checkpoints(folder / to).save(t, {{"seed", 4}});
      };
      return part(ranks, 3);
    });
  };
  run(3, false, "", "whole"), run(3, true, "", "parts");
  for (const char* file : {"state.safetensors", "manifest.json"})
    BOOST_TEST(
        (content(folder / "whole/step-00000003" / file) == content(folder / "parts/step-00000003" / file)));
  BOOST_TEST(content(folder / "whole/step-00000003/state.safetensors").size() > 1000u);

  const auto same_number = run(3, true, "parts", "");
  const auto one = run(1, false, "whole", "")[0];
  compare(same_number, one);
  BOOST_TEST(same(run(3, false, "whole", "")[0], same_number[0]));
  compare(run(2, true, "whole", ""), one);
  // Six steps at once are three and three, bit for bit.
  const auto whole = on_ranks(3, [&](cpu& device, comm::any ranks) {
    return testing::ranks_distil<cpu>(device, golden, loss::alignment::average)(ranks, 6);
  });
  BOOST_TEST(whole[0].weights == same_number[0].weights);
  // What rank 0 cannot write all ranks hear of.
  std::ofstream(folder / "in the way") << "a file";
  BOOST_CHECK_THROW(run(2, true, "", "in the way/deeper"), std::exception);
  fs::remove_all(folder);
}

}  // namespace distil_xlstm
