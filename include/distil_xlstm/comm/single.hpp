#pragma once

#include <span>

#include <distil_xlstm/comm/communicator.hpp>
#include <distil_xlstm/comm/memory.hpp>
#include <distil_xlstm/core/extent.hpp>

namespace distil_xlstm::comm {

/// One process by itself: nothing is exchanged.
struct single {
  /// @name What every communicator has
  /// @{

  /// As the concept `Communicator` says.
  static constexpr index rank() { return 0; }
  static constexpr index size() { return 1; }
  static constexpr bool recordable() { return true; }
  template <class T>
  static void sum(memory, T*, index) {}
  static void broadcast(memory, void*, index, index) {}
  static void all_gather(memory, void*, std::span<const index>) {}
  static void all_gather(memory, void*, index) {}
  static void barrier() {}
  /// @}
};

/// The one that is meant where none is named.
inline single alone;

}  // namespace distil_xlstm::comm
