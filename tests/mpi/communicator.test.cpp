#include <boost/test/unit_test.hpp>

#include <distil_xlstm/comm/agree.hpp>
#include <distil_xlstm/comm/any.hpp>
#include <distil_xlstm/comm/mpi.hpp>
#include <distil_xlstm/comm/mpi_session.hpp>
#include <distil_xlstm/comm/mpi_watch.hpp>
#include <distil_xlstm/testing/check_communicator.hpp>

#include "../device/fenced.hpp"

namespace distil_xlstm {

/// Messages of all sizes, so that numbers go whole and in buckets, in one message and in several.
BOOST_AUTO_TEST_CASE(mpi_keeps_the_laws) {
  device::cpu device(1);
  testing::basic_fenced<> apart(1);
  for (const auto& [sizes, largest] : {std::pair{comm::message_sizes{index{1} << 20}, index{400000}},
                                       {comm::message_sizes{4096, 3000, 500}, index{9000}}}) {
    comm::mpi ranks(MPI_COMM_WORLD, sizes);
    comm::any any(ranks);
    const auto direct = testing::check_communicator(ranks, device, largest),
               staged = testing::check_communicator(ranks, apart, largest),
               erased = testing::check_communicator(any, device, 2000);
    BOOST_TEST(direct.ok(), direct.text);
    BOOST_TEST(staged.ok(), staged.text);
    BOOST_TEST(erased.ok(), erased.text);
  }
}

BOOST_AUTO_TEST_CASE(messages_have_possible_sizes) {
  BOOST_CHECK_THROW(comm::mpi(MPI_COMM_WORLD, {100, 100, 100}), error);
  BOOST_CHECK_THROW(comm::mpi(MPI_COMM_WORLD, {4096, index{3} << 30, 100}), error);
}

/// A watch that has nothing to say says nothing, and ends on all ranks; one thread of each that does not beat is named.
BOOST_AUTO_TEST_CASE(a_rank_that_does_not_come_is_named) {
  comm::mpi ranks;
  {
    const comm::mpi_watch watch(ranks, [](const std::string& why) { BOOST_ERROR(why); }, {.beat = 0.05});
    for (int i = 0; i < 20; ++i) {
      double x = 1;
      ranks.sum({}, &x, 1);
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
  }
  if (ranks.size() == 1) return;
  std::string said;
  {
    std::atomic<bool> faulty{false};
    const comm::mpi_watch watch(ranks, [&](const std::string& why) { said = why, faulty = true; },
                                {.beat = 0.05, .silence = 30, .waiting = 0.5});
    const bool late = ranks.rank() == ranks.size() - 1;
    double x = 1;
    ranks.sum({}, &x, 1);
    if (late) std::this_thread::sleep_for(std::chrono::seconds(2));
    ranks.sum({}, &x, 1);
    BOOST_TEST(x == static_cast<double>(ranks.size() * ranks.size()));
    ranks.barrier();
  }
  // Rank 0 hears of all, the others of rank 0 alone, which waits itself.
  if (ranks.rank() == 0)
    BOOST_TEST((said.starts_with("rank " + std::to_string(ranks.size() - 1) + " of " +
                                 std::to_string(ranks.size()) + " has not come for ")),
               said);
  else
    BOOST_TEST(said == "");
}

/// After `stop` what waits throws, and later calls do: the last test, for it leaves an exchange open.
BOOST_AUTO_TEST_CASE(zz_what_waits_can_be_stopped) {
  comm::mpi ranks;
  if (ranks.size() == 1) return;
  static double x;  // outlives the exchange
  if (ranks.rank() == 0) {
    std::thread other([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      ranks.stop("rank 1 is lost");
    });
    BOOST_CHECK_EXCEPTION(ranks.broadcast({}, &x, sizeof x, 1), comm::communication_error,
                          [](const error& e) { return std::string(e.what()) == "rank 1 is lost"; });
    other.join();
  }
  MPI_Barrier(MPI_COMM_WORLD);
  if (ranks.rank() > 0) ranks.broadcast({}, &x, sizeof x, 1);
  MPI_Barrier(MPI_COMM_WORLD);
}

}  // namespace distil_xlstm

int main(int argc, char** argv) {
  const distil_xlstm::comm::mpi_session session;
  return boost::unit_test::unit_test_main([] { return true; }, argc, argv);
}
