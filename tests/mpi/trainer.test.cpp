#include <boost/test/unit_test.hpp>

#include <distil_xlstm/comm/agree.hpp>
#include <distil_xlstm/comm/mpi.hpp>
#include <distil_xlstm/comm/mpi_session.hpp>
#include <distil_xlstm/device/cpu.hpp>

#include "../comparison/ranks.hpp"
#include "../counted_allocations.hpp"

namespace distil_xlstm {
namespace {

using testing::trained;
using cpu = device::basic_cpu<fp64>;
const std::string golden = DISTIL_XLSTM_TEST_DATA "/golden";

/// As one process, and on all ranks the same.
void compare(comm::any ranks, const trained& got, const trained& one) {
  const testing::apart apart(got, one);
  BOOST_TEST(apart.losses <= 1e-12);
  BOOST_TEST(apart.weights <= 1e-12);
  std::vector<double> first = got.weights;
  ranks.broadcast({}, first.data(), std::ssize(first) * static_cast<index>(sizeof(double)), 0);
  BOOST_TEST((first == got.weights));
}

}  // namespace

BOOST_AUTO_TEST_CASE(processes_train_as_one) {
  comm::mpi ranks(MPI_COMM_WORLD, {4096, 4096, 512});  // many buckets
  cpu device(1);
  for (const auto form : {loss::alignment::average, loss::alignment::cosine}) {
    testing::ranks_distil<cpu> train(device, golden, form);
    const trained one = train({}), together = train(ranks);
    compare(ranks, together, one);
    train.options.shard_optimiser = true;
    const trained sharded = train(ranks);
    BOOST_TEST(same(sharded, together));
    BOOST_TEST((ranks.size() == 1 || sharded.moments < together.moments));
  }
  training_options o;
  o.batch = 6, o.length = 9, o.total_steps = 8, o.lr = {1e-2};
  const trained one = testing::ranks_align(device, golden, {}, o);
  compare(ranks, testing::ranks_align(device, golden, ranks, o), one);
}

/// A live teacher names its tensors anew for every batch; beside that there is nothing. What MPI itself keeps is its own.
BOOST_AUTO_TEST_CASE(ranks_allocate_nothing_after_the_first_step) {
  comm::mpi processes;
  cpu device(1);
  const auto made = [&](comm::any ranks, bool sharded) {
    testing::ranks_distil<cpu> train(device, golden, loss::alignment::average);
    train.options.shard_optimiser = sharded;
    train.options.order = window_order::sequential;  // an epoch's order is made when it begins
    long count = -1;
    train.on_trainer = [&](auto& t, bool begins) {
      if (!begins) return;
      t.step();
      const long before = allocations;
      t.step(), t.step();
      count = allocations - before;
    };
    train(ranks, 1);
    return count;
  };
  const long alone = made({}, false);
  BOOST_TEST(made(processes, false) == alone);
  BOOST_TEST(made(processes, true) == alone);
}

}  // namespace distil_xlstm

int main(int argc, char** argv) {
  const distil_xlstm::comm::mpi_session session;
  return boost::unit_test::unit_test_main([] { return true; }, argc, argv);
}
