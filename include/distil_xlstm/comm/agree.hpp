#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <string>
#include <type_traits>
#include <vector>

#include <distil_xlstm/comm/communicator.hpp>
#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/core/extent.hpp>

namespace distil_xlstm::comm {

// What ranks decide together, in the host's memory. Every rank calls the same.

/// Rank 0's value of `mine`, on every rank.
template <Communicator C, class T>
requires std::is_trivially_copyable_v<T> T from_root(C& ranks, T mine) {
  if (ranks.size() > 1) ranks.broadcast({}, &mine, static_cast<index>(sizeof mine), 0);
  return mine;
}
/// Rank 0's text, on every rank.
template <Communicator C>
std::string from_root(C& ranks, std::string mine) {
  if (ranks.size() == 1) return mine;
  const index n = from_root(ranks, std::ssize(mine));
  mine.resize(static_cast<std::size_t>(n));
  if (n > 0) ranks.broadcast({}, mine.data(), n, 0);
  return mine;
}

/// Every rank's number, by rank, on every rank.
template <Communicator C>
std::vector<std::int64_t> of_all(C& ranks, std::int64_t mine) {
  std::vector<std::int64_t> all(static_cast<std::size_t>(ranks.size()));
  all[static_cast<std::size_t>(ranks.rank())] = mine;
  ranks.all_gather({}, all.data(), static_cast<index>(sizeof mine));
  return all;
}
/// The largest number that a rank has, on every rank.
template <Communicator C>
std::int64_t largest(C& ranks, std::int64_t mine) {
  if (ranks.size() == 1) return mine;
  const auto all = of_all(ranks, mine);
  return *std::max_element(all.begin(), all.end());
}

namespace detail {
/// use() where `here`; throws on every rank what the first of those that throw has.
enum class outcome : std::int64_t { good, wrong, not_finite };
template <Communicator C, class F>
void tried(C& ranks, bool here, const F& use, bool named) {
  outcome mine = outcome::good;
  std::string said;
  std::exception_ptr own;
  if (here) try {
      use();
    } catch (const numeric_error& e) {
      mine = outcome::not_finite, said = e.what(), own = std::current_exception();
    } catch (const std::exception& e) {
      mine = outcome::wrong, said = e.what(), own = std::current_exception();
    }
  if (ranks.size() == 1) {
    if (own) std::rethrow_exception(own);
    return;
  }
  const auto all = of_all(ranks, static_cast<std::int64_t>(mine));
  const auto first = std::find_if(all.begin(), all.end(), [](auto x) { return x != 0; });
  if (first == all.end()) return;
  const index root = first - all.begin();
  std::int64_t n = std::ssize(said);
  ranks.broadcast({}, &n, static_cast<index>(sizeof n), root);
  said.resize(static_cast<std::size_t>(n));
  if (n > 0) ranks.broadcast({}, said.data(), n, root);
  const bool all_alike = std::all_of(all.begin(), all.end(), [&](auto x) { return x == *first; });
  if (all_alike && own) std::rethrow_exception(own);
  if (named && root > 0)
    said = "rank " + std::to_string(root) + " of " + std::to_string(ranks.size()) + ": " + said;
  if (*first == static_cast<std::int64_t>(outcome::not_finite)) throw numeric_error(said);
  throw error(said);
}
}  // namespace detail

/// use() on rank 0 alone. What it throws, `error` or `numeric_error`, all ranks throw.
template <Communicator C, class F>
void on_root(C& ranks, const F& use) {
  detail::tried(ranks, ranks.rank() == 0, use, false);
}
/// use() on every rank. What the first throws that does, all ranks throw, and name it: none waits for another that has
/// left. Where all of them throw, each throws its own.
template <Communicator C, class F>
void on_every_rank(C& ranks, const F& use) {
  detail::tried(ranks, true, use, true);
}

}  // namespace distil_xlstm::comm
