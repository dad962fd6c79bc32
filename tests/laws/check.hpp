#pragma once

#include <boost/test/unit_test.hpp>

#include <distil_xlstm/device/cpu.hpp>
#include <distil_xlstm/testing/check_block.hpp>

namespace distil_xlstm {

/// The laws of Block hold for `block`, on one thread.
template <class B>
void check(const char* what, const B& block, const testing::block_options& options = {}) {
  static device::cpu device(1);
  const auto report = testing::check_block(device, block, options);
  BOOST_TEST(report.ok(), what << ": " << report.text);
}

}  // namespace distil_xlstm
