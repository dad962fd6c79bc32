#pragma once

#include <string>

#include <boost/test/unit_test.hpp>

#include <distil_xlstm/core/error.hpp>

namespace distil_xlstm {

/// For BOOST_CHECK_EXCEPTION: whether an error's sentence has `part` in it.
inline auto says(std::string part) {
  return [part](const error& e) {
    BOOST_TEST_MESSAGE(e.what());
    const bool named = std::string(e.what()).find(part) != std::string::npos;
    BOOST_TEST(named, "'" << e.what() << "' does not say '" << part << "'");
    return named;
  };
}
/// `call` throws an `error` whose sentence has `part` in it.
template <class F>
void refused(const F& call, const std::string& part) {
  BOOST_CHECK_EXCEPTION(call(), error, says(part));
}

}  // namespace distil_xlstm
