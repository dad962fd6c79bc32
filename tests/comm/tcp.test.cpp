#include <boost/test/unit_test.hpp>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <distil_xlstm/comm/any.hpp>
#include <distil_xlstm/comm/tcp.hpp>
#include <distil_xlstm/core/hash.hpp>
#include <distil_xlstm/testing/check_communicator.hpp>

#include "../device/fenced.hpp"

// Ranks are threads here, whose connections are those of processes.
namespace distil_xlstm {
namespace {

using use = comm::tcp_session::use;

/// job(session) on as many ranks, each in a thread. What they throw, in the order of ranks.
std::vector<std::string> run(index size, const std::function<void(comm::tcp_session&)>& job,
                             const std::function<void(comm::tcp_place&)>& change = {}) {
  const auto [listening, port] = comm::tcp_session::listen_here();
  std::vector<std::string> thrown(static_cast<std::size_t>(size));
  std::vector<std::thread> threads;
  for (index r = 0; r < size; ++r)
    threads.emplace_back([&, r, listening = listening, port = port] {
      comm::tcp_place place{.rank = r, .size = size, .port = port, .run = "a test", .patience = 20};
      if (r == 0) place.listening = listening;
      if (change) change(place);
      try {
        comm::tcp_session session(place);
        job(session);
      } catch (const error& e) {
        thrown[static_cast<std::size_t>(r)] = e.what();
      }
    });
  for (auto& t : threads) t.join();
  return thrown;
}
bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

/// A connection of no rank to a port of this machine.
comm::detail::tcp_socket connected(int port) {
  sockaddr_in at{};
  at.sin_family = AF_INET, at.sin_port = htons(static_cast<std::uint16_t>(port));
  at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const int s = ::socket(AF_INET, SOCK_STREAM, 0);
  BOOST_REQUIRE(::connect(s, reinterpret_cast<const sockaddr*>(&at), sizeof at) == 0);
  return comm::detail::tcp_socket(s);
}

}  // namespace

BOOST_AUTO_TEST_CASE(tcp_keeps_the_laws) {
  for (const index size : {1, 2, 3})
    for (const auto& [sizes, largest] : {std::pair{comm::message_sizes{index{1} << 20}, index{100000}},
                                         {comm::message_sizes{4096, 3000, 500}, index{9000}}}) {
      std::mutex mutex;
      std::string broken;
      const auto thrown = run(size, [&, sizes = sizes, largest = largest](comm::tcp_session& session) {
        device::cpu device(1);
        testing::basic_fenced<> apart(1);
        comm::tcp ranks(session, use::exchange, sizes);
        comm::any any(ranks);
        for (const auto& report : {testing::check_communicator(ranks, device, largest),
                                   testing::check_communicator(ranks, apart, largest),
                                   testing::check_communicator(any, device, 900)}) {
          const std::scoped_lock lock(mutex);
          if (!report.ok()) broken = report.text;
        }
      });
      BOOST_TEST(broken == "");
      for (const auto& what : thrown) BOOST_TEST(what == "");
    }
}

BOOST_AUTO_TEST_CASE(rank_0_may_come_last_and_at_another_port) {
  const auto [taken, port] = comm::tcp_session::listen_here();  // never answers
  const auto thrown = run(
      3,
      [](comm::tcp_session& session) {
        comm::tcp ranks(session);
        double x = 1;
        ranks.sum({}, &x, 1);
        if (x != 3) fail("a sum of ", x);
      },
      [port = port](comm::tcp_place& place) {
        place.port = port;
        if (place.rank > 0) return;
        ::close(place.listening), place.listening = -1;
        std::this_thread::sleep_for(std::chrono::milliseconds(300));
      });
  ::close(taken);
  for (const auto& what : thrown) BOOST_TEST(what == "");
}

BOOST_AUTO_TEST_CASE(who_is_missing_or_does_not_belong_is_named) {
  const auto absent = run(
      3, [](comm::tcp_session&) {},
      [](comm::tcp_place& place) {
        place.patience = 0.5;
        if (place.rank == 2) place.host = "no.such.machine.invalid";
      });
  BOOST_TEST(contains(absent[0], "rank 2 of 3 has not come within 0.5 s"), absent[0]);
  BOOST_TEST(contains(absent[2], "rank 2 of 3 does not find rank 0 at no.such.machine.invalid:"), absent[2]);

  const auto strange = run(
      2, [](comm::tcp_session&) {},
      [](comm::tcp_place& place) {
        place.patience = place.rank == 0 ? 2 : 0.5, place.run += std::to_string(place.rank);
      });
  BOOST_TEST(contains(strange[0], "rank 1 of 2 has not come"), strange[0]);
  BOOST_TEST(contains(strange[1], "what listens there is another run"), strange[1]);

  const auto more = run(
      2, [](comm::tcp_session&) {},
      [](comm::tcp_place& place) { place.patience = place.rank == 0 ? 2 : 0.5, place.size += place.rank; });
  BOOST_TEST(contains(more[1], "rank 0 is one of 2, rank 1 of 3"), more[1]);

  const auto twice = run(
      3, [](comm::tcp_session&) { std::this_thread::sleep_for(std::chrono::milliseconds(500)); },
      [](comm::tcp_place& place) {
        place.patience = 0.5;
        if (place.rank == 2) place.rank = 1, std::this_thread::sleep_for(std::chrono::milliseconds(200));
      });
  BOOST_TEST((contains(twice[1] + twice[2], "rank 1 of 3 is there already")), twice[1] + twice[2]);
  BOOST_CHECK_THROW(comm::tcp_session({.rank = 3, .size = 3}), comm::communication_error);
}

BOOST_AUTO_TEST_CASE(strangers_keep_nobody_waiting) {
  // Each is given two seconds; one after another they would take longer than the ranks' patience.
  std::vector<comm::detail::tcp_socket> strangers;
  std::mutex mutex;
  const auto thrown = run(
      2, [](comm::tcp_session&) {},
      [&](comm::tcp_place& place) {
        const std::scoped_lock lock(mutex);
        while (strangers.size() < 15) strangers.push_back(connected(place.port));
      });
  for (const auto& what : thrown) BOOST_TEST(what == "");
}

BOOST_AUTO_TEST_CASE(a_rank_that_has_given_up_comes_again) {
  // What it has said waits for rank 0, its connection is closed.
  fnv_hash hash;
  hash.add(std::string("a test"));
  struct {
    std::uint64_t word = 0x317378656c786c64, run = 0;
    std::uint32_t size = 2, rank = 1, use = 0, unused = 0;
  } said;
  said.run = hash.value();
  std::mutex mutex;
  bool gone = false;
  const auto thrown = run(
      2,
      [](comm::tcp_session& session) {
        comm::tcp ranks(session);
        double x = 1;
        ranks.sum({}, &x, 1);
        if (x != 2) fail("a sum of ", x);
      },
      [&](comm::tcp_place& place) {
        const std::scoped_lock lock(mutex);
        if (!std::exchange(gone, true)) BOOST_REQUIRE(connected(place.port).send_some(&said, sizeof said) > 0);
      });
  for (const auto& what : thrown) BOOST_TEST(what == "");
}

BOOST_AUTO_TEST_CASE(who_ends_in_the_midst_is_named) {
  for (const index gone : {0, 1}) {
    const auto thrown = run(3, [&](comm::tcp_session& session) {
      comm::tcp ranks(session);
      if (ranks.rank() == gone) return;
      double x = 1;
      ranks.sum({}, &x, 1);
    });
    const index witness = gone == 0 ? 1 : 0;
    BOOST_TEST(contains(thrown[static_cast<std::size_t>(witness)],
                        "rank " + std::to_string(gone) + " of 3 has ended in the midst of it"));
  }
}

/// What the watches of three ranks say, by rank; "quiet" where one says that somebody else has said it.
std::vector<std::string> faults(const std::function<void(comm::tcp&, comm::watch&)>& job,
                                comm::watch_patience limits) {
  std::vector<std::string> said(3);
  const auto thrown = run(3, [&](comm::tcp_session& session) {
    comm::tcp ranks(session);
    std::atomic<bool> faulty{false};
    comm::watch watch(
        ranks.progress(), ranks.rank(), ranks.size(), std::make_unique<comm::tcp_signs>(session),
        [&](const std::string& why) {
          said[static_cast<std::size_t>(ranks.rank())] = why.empty() ? "quiet" : why;
          faulty = true;
          ranks.stop("ended by the watch");
        },
        limits);
    try {
      job(ranks, watch);
    } catch (const comm::communication_error&) {
      while (!faulty) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  });
  for (const auto& what : thrown) BOOST_TEST(what == "");
  return said;
}

BOOST_AUTO_TEST_CASE(a_watch_names_who_is_lost_and_one_says_it) {
  // All is well.
  const auto none = faults(
      [](comm::tcp& ranks, comm::watch&) {
        for (double x = 1; x < 1e6;)
          ranks.sum({}, &x, 1), std::this_thread::sleep_for(std::chrono::milliseconds(5));
      },
      {.beat = 0.05});
  for (const auto& what : none) BOOST_TEST(what == "");

  // One does not come.
  const auto late = faults(
      [](comm::tcp& ranks, comm::watch&) {
        double x = 1;
        ranks.sum({}, &x, 1);
        if (ranks.rank() == 2) std::this_thread::sleep_for(std::chrono::seconds(2));
        ranks.sum({}, &x, 1);
      },
      {.beat = 0.05, .silence = 30, .waiting = 0.5});
  BOOST_TEST(late[0].starts_with("rank 2 of 3 has not come for "), late[0]);
  BOOST_TEST(late[1] == "quiet");

  // One breaks off, and has said why.
  const auto broken = faults(
      [](comm::tcp& ranks, comm::watch& watch) {
        double x = 1;
        if (ranks.rank() == 2) watch.break_off();
        while (true) ranks.sum({}, &x, 1), std::this_thread::sleep_for(std::chrono::milliseconds(5));
      },
      {.beat = 0.05});
  BOOST_TEST(broken[0] == "quiet");
  BOOST_TEST(broken[1] == "quiet");
}

}  // namespace distil_xlstm
