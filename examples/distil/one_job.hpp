#pragma once

#include <distil_xlstm/comm/agree.hpp>
#include <distil_xlstm/io/json.hpp>

#include "processes.hpp"

namespace program {

/// Throws `error` on all processes where one of them has another job than rank 0: `mine` are the facts that make it
/// what it is, a model's hash, a text's, options. The error names what is another.
inline void require_one_job(const dx::io::json& mine) {
  auto& all = processes();
  if (all.size() == 1) return;
  const auto first = dx::io::json::parse(dx::comm::from_root(all, mine.dump()));
  dx::comm::on_every_rank(all, [&] {
    dx::io::json keys = first;
    keys.update(mine);
    for (const auto& item : keys.items())
      if (const auto its = first.value(item.key(), dx::io::json()),
          own = mine.value(item.key(), dx::io::json());
          its != own)
        dx::fail("another ", item.key(), " than rank 0: ", own.dump(), ", which has ", its.dump());
  });
}

}  // namespace program
