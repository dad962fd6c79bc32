#pragma once

#include <concepts>
#include <cstdint>
#include <span>
#include <type_traits>

#include <distil_xlstm/comm/communicator.hpp>
#include <distil_xlstm/comm/memory.hpp>
#include <distil_xlstm/comm/single.hpp>
#include <distil_xlstm/core/extent.hpp>

namespace distil_xlstm::comm {

/// A communicator chosen at run time, so that what takes one is compiled once. It refers to another, which must live as
/// long; without one it is `single`.
class any {
 public:
  any() : any(alone) {}
  /// Refers to `other`.
  template <Communicator C>
  requires(!std::same_as<C, any>) any(C& other) : other_(&other), table_(&table_of<C>) {}

  /// @name What every communicator has
  /// @{

  /// As the concept `Communicator` says.
  index rank() const { return table_->rank(other_); }
  index size() const { return table_->size(other_); }
  bool recordable() const { return table_->recordable(other_); }
  void sum(memory where, double* p, index n) { table_->sum_double(other_, where, p, n); }
  void sum(memory where, float* p, index n) { table_->sum_float(other_, where, p, n); }
  void sum(memory where, std::int64_t* p, index n) { table_->sum_whole(other_, where, p, n); }
  void broadcast(memory where, void* p, index bytes, index root) {
    table_->broadcast(other_, where, p, bytes, root);
  }
  void all_gather(memory where, void* p, std::span<const index> starts) {
    table_->all_gather(other_, where, p, starts);
  }
  void all_gather(memory where, void* p, index each) { table_->all_gather_even(other_, where, p, each); }
  void barrier() { table_->barrier(other_); }
  /// @}
  /// @name What some have
  /// @{

  /// As that of comm::nccl; of a communicator that has none the sum at once.
  template <class T>
  void sum_beside(memory where, T* p, index n) {
    if constexpr (std::is_same_v<T, double>)
      table_->beside_double(other_, where, p, n);
    else
      table_->beside_float(other_, where, p, n);
  }
  void join(memory where) { table_->join(other_, where); }
  /// @}

 private:
  struct table {
    index (*rank)(const void*);
    index (*size)(const void*);
    bool (*recordable)(const void*);
    void (*sum_double)(void*, memory, double*, index);
    void (*sum_float)(void*, memory, float*, index);
    void (*sum_whole)(void*, memory, std::int64_t*, index);
    void (*broadcast)(void*, memory, void*, index, index);
    void (*all_gather)(void*, memory, void*, std::span<const index>);
    void (*all_gather_even)(void*, memory, void*, index);
    void (*barrier)(void*);
    void (*beside_double)(void*, memory, double*, index);
    void (*beside_float)(void*, memory, float*, index);
    void (*join)(void*, memory);
  };
  template <class C, class T>
  static void sum_of(void* c, memory where, T* p, index n) {
    static_cast<C*>(c)->sum(where, p, n);
  }
  template <class C>
  static constexpr table table_of = {
      [](const void* c) -> index { return static_cast<const C*>(c)->rank(); },
      [](const void* c) -> index { return static_cast<const C*>(c)->size(); },
      [](const void* c) -> bool { return static_cast<const C*>(c)->recordable(); },
      &sum_of<C, double>,
      &sum_of<C, float>,
      &sum_of<C, std::int64_t>,
      [](void* c, memory where, void* p, index bytes, index root) {
        static_cast<C*>(c)->broadcast(where, p, bytes, root);
      },
      [](void* c, memory where, void* p, std::span<const index> starts) {
        static_cast<C*>(c)->all_gather(where, p, starts);
      },
      [](void* c, memory where, void* p, index each) { static_cast<C*>(c)->all_gather(where, p, each); },
      [](void* c) { static_cast<C*>(c)->barrier(); },
      [](void* c, memory where, double* p, index n) { comm::sum_beside(*static_cast<C*>(c), where, p, n); },
      [](void* c, memory where, float* p, index n) { comm::sum_beside(*static_cast<C*>(c), where, p, n); },
      [](void* c, memory where) { comm::join(*static_cast<C*>(c), where); }};

  void* other_;
  const table* table_;
};

}  // namespace distil_xlstm::comm
