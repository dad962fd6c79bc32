#pragma once

#include <algorithm>
#include <barrier>
#include <cstddef>
#include <cstring>
#include <exception>
#include <span>
#include <thread>
#include <vector>

#include <distil_xlstm/comm/communicator.hpp>

namespace distil_xlstm::testing {

/// Ranks that are threads of one process: what several processes do, without them.
class thread_ranks {
 public:
  explicit thread_ranks(index size) : size_(size), meet_(size), given_(static_cast<std::size_t>(size)) {}

  class rank_type {
   public:
    rank_type(thread_ranks& all, index rank) : all_(&all), rank_(rank) {}
    index rank() const { return rank_; }
    index size() const { return all_->size_; }
    static constexpr bool recordable() { return false; }

    template <class T>
    void sum(comm::memory where, T* p, index n) {
      give(where, p, n * static_cast<index>(sizeof(T)));
      std::vector<T> total(static_cast<std::size_t>(n));
      std::vector<T> part(total.size());
      for (index r = 0; r < size(); ++r) {
        auto& to = r == 0 ? total : part;
        if (n > 0) std::memcpy(to.data(), given(r), to.size() * sizeof(T));
        if (r > 0)
          for (std::size_t i = 0; i < total.size(); ++i) total[i] += part[i];
      }
      take(where, p, total.data(), n * static_cast<index>(sizeof(T)));
    }
    void broadcast(comm::memory where, void* p, index bytes, index root) {
      give(where, p, bytes);
      take(where, p, given(root), bytes);
    }
    void all_gather(comm::memory where, void* p, std::span<const index> starts) {
      give(where, p, starts.back());
      for (index r = 0; r < size(); ++r) {
        const auto i = static_cast<std::size_t>(r);
        put(where, static_cast<std::byte*>(p) + starts[i], given(r) + starts[i], starts[i + 1] - starts[i]);
      }
      barrier();
    }
    void all_gather(comm::memory where, void* p, index each) {
      std::vector<index> starts;
      for (index r = 0; r <= size(); ++r) starts.push_back(r * each);
      all_gather(where, p, std::span<const index>(starts));
    }
    void barrier() { all_->meet_.arrive_and_wait(); }

   private:
    const std::byte* given(index rank) const { return all_->given_[static_cast<std::size_t>(rank)].data(); }
    void give(comm::memory where, const void* p, index bytes) {
      auto& mine = all_->given_[static_cast<std::size_t>(rank_)];
      mine.resize(static_cast<std::size_t>(bytes));
      if (bytes > 0 && where.host()) std::memcpy(mine.data(), p, mine.size());
      if (bytes > 0 && !where.host()) where.download(mine.data(), p, bytes);
      barrier();
    }
    static void put(comm::memory where, void* p, const void* from, index bytes) {
      if (bytes > 0 && where.host()) std::memcpy(p, from, static_cast<std::size_t>(bytes));
      if (bytes > 0 && !where.host()) where.upload(p, from, bytes);
    }
    void take(comm::memory where, void* p, const void* from, index bytes) {
      put(where, p, from, bytes);
      barrier();
    }
    thread_ranks* all_;
    index rank_;
  };

  /// work(rank) on a thread each; throws what one of them has.
  template <class F>
  void run(const F& work) {
    std::vector<std::exception_ptr> thrown(static_cast<std::size_t>(size_));
    std::vector<std::thread> threads;
    for (index r = 0; r < size_; ++r)
      threads.emplace_back([&, r] {
        rank_type mine(*this, r);
        try {
          work(mine);
        } catch (...) {
          thrown[static_cast<std::size_t>(r)] = std::current_exception();
          meet_.arrive_and_drop();  // the others do not wait
        }
      });
    for (auto& t : threads) t.join();
    for (const auto& e : thrown)
      if (e) std::rethrow_exception(e);
  }

 private:
  index size_;
  std::barrier<> meet_;
  std::vector<std::vector<std::byte>> given_;
};

}  // namespace distil_xlstm::testing
