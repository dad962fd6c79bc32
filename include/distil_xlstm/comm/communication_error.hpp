#pragma once

#include <distil_xlstm/core/error.hpp>

namespace distil_xlstm::comm {

/// Ranks could not exchange what they were to.
class communication_error : public error {
 public:
  using error::error;
};

}  // namespace distil_xlstm::comm
