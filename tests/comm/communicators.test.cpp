#include <boost/test/unit_test.hpp>

#include <mutex>
#include <string>

#include <distil_xlstm/comm/agree.hpp>
#include <distil_xlstm/comm/any.hpp>
#include <distil_xlstm/comm/single.hpp>
#include <distil_xlstm/testing/check_communicator.hpp>

#include "../device/fenced.hpp"
#include "thread_ranks.hpp"

namespace distil_xlstm {

using testing::thread_ranks;

BOOST_AUTO_TEST_CASE(one_process_keeps_the_laws) {
  device::cpu device(1);
  testing::basic_fenced<> apart(1);
  comm::single one;
  comm::any any, other(one);
  for (const auto& report :
       {testing::check_communicator(one, device), testing::check_communicator(any, device),
        testing::check_communicator(other, device), testing::check_communicator(one, apart)})
    BOOST_TEST(report.ok(), report.text);
  BOOST_TEST(any.size() == 1);
  BOOST_TEST(any.recordable());
}

/// The reports of ranks that are threads, each with a device of its own; `Rank` is what the laws are tried on.
template <class Rank, class D = device::cpu>
std::string broken_law(index size) {
  std::mutex mutex;
  std::string law;
  thread_ranks(size).run([&](thread_ranks::rank_type& mine) {
    D device(1);
    Rank ranks(mine);
    const auto report = testing::check_communicator(ranks, device, 900);
    const std::scoped_lock lock(mutex);
    if (!report.ok()) law = report.law;
  });
  return law;
}

BOOST_AUTO_TEST_CASE(several_ranks_keep_the_laws) {
  for (const index size : {2, 3, 5}) {
    BOOST_TEST(broken_law<thread_ranks::rank_type>(size) == "");
    BOOST_TEST(broken_law<comm::any>(size) == "");
    BOOST_TEST((broken_law<comm::any, testing::basic_fenced<>>(size) == ""));
  }
}

/// Ranks with one call that is wrong.
struct from_the_last : thread_ranks::rank_type {
  using base = thread_ranks::rank_type;
  from_the_last(const base& b) : base(b) {}
  template <class T>
  void sum(comm::memory where, T* p, index n) {  // ((p_2 + p_1) + p_0)
    std::vector<T> all(static_cast<std::size_t>(n * size()));
    std::copy(p, p + n, all.begin() + rank() * n);
    all_gather({}, all.data(), n * static_cast<index>(sizeof(T)));
    for (index i = 0; i < n; ++i) {
      T total = all[static_cast<std::size_t>((size() - 1) * n + i)];
      for (index r = size() - 2; r >= 0; --r) total += all[static_cast<std::size_t>(r * n + i)];
      p[i] = total;
    }
    static_cast<void>(where), barrier();
  }
};
struct from_rank_0 : thread_ranks::rank_type {
  using base = thread_ranks::rank_type;
  from_rank_0(const base& b) : base(b) {}
  void broadcast(comm::memory where, void* p, index bytes, index) { base::broadcast(where, p, bytes, 0); }
};
struct without_the_last_number : thread_ranks::rank_type {
  using base = thread_ranks::rank_type;
  without_the_last_number(const base& b) : base(b) {}
  void all_gather(comm::memory where, void* p, std::span<const index> starts) {
    std::vector<index> less(starts.begin(), starts.end());
    if (less.back() > 8) less.back() -= 4;
    base::all_gather(where, p, std::span<const index>(less));
  }
  void all_gather(comm::memory where, void* p, index each) { base::all_gather(where, p, each); }
};
struct without_a_barrier : thread_ranks::rank_type {
  using base = thread_ranks::rank_type;
  without_a_barrier(const base& b) : base(b) {}
  void barrier() {}
};

BOOST_AUTO_TEST_CASE(a_fault_is_found_under_its_law) {
  BOOST_TEST(broken_law<from_the_last>(3) == "sum adds up the ranks' numbers in their order");
  BOOST_TEST(broken_law<from_the_last>(2) == "");  // a + b = b + a
  BOOST_TEST(broken_law<from_rank_0>(2) == "broadcast gives the root's numbers");
  BOOST_TEST(broken_law<without_the_last_number>(3) == "all_gather takes parts of any size");
  BOOST_TEST(broken_law<without_a_barrier>(2) == "no rank leaves a barrier before all have come");
}

BOOST_AUTO_TEST_CASE(what_one_rank_throws_all_throw) {
  const auto said = [](index size, bool root_only, index thrower, bool finite) {
    std::mutex mutex;
    std::vector<std::string> out;
    thread_ranks(size).run([&](thread_ranks::rank_type& ranks) {
      std::string text = "nothing";
      const auto use = [&] {
        if (ranks.rank() < thrower) return;
        if (finite) fail("disk full");
        throw numeric_error("diverged");
      };
      try {
        root_only ? comm::on_root(ranks, use) : comm::on_every_rank(ranks, use);
      } catch (const numeric_error& e) {
        text = std::string("numeric ") + e.what();
      } catch (const error& e) {
        text = e.what();
      }
      const std::scoped_lock lock(mutex);
      out.push_back(text);
    });
    return out;
  };
  const auto all = [](index size, const std::string& text) {
    return std::vector<std::string>(static_cast<std::size_t>(size), text);
  };
  for (const index size : {1, 2, 3}) {
    BOOST_TEST(said(size, true, 0, true) == all(size, "disk full"));
    BOOST_TEST(said(size, true, 0, false) == all(size, "numeric diverged"));
    BOOST_TEST(said(size, true, size, true) == all(size, "nothing"));
    BOOST_TEST(said(size, false, 0, true) == all(size, "disk full"));
  }
  BOOST_TEST(said(3, false, 1, true) == all(3, "rank 1 of 3: disk full"));
  BOOST_TEST(said(3, false, 2, false) == all(3, "numeric rank 2 of 3: diverged"));
}

BOOST_AUTO_TEST_CASE(what_ranks_decide_together) {
  thread_ranks(3).run([](thread_ranks::rank_type& ranks) {
    const auto mine = std::to_string(ranks.rank()) + std::string(static_cast<std::size_t>(ranks.rank()), 'x');
    require(comm::from_root(ranks, mine) == "0", "from_root of text");
    require(comm::from_root(ranks, ranks.rank() + 5) == 5, "from_root of a number");
    require(comm::largest(ranks, -ranks.rank()) == 0 && comm::largest(ranks, ranks.rank()) == 2, "largest");
  });
}

}  // namespace distil_xlstm
