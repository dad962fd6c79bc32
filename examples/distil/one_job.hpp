#pragma once

#include <optional>
#include <string>

#include <distil_xlstm/comm/agree.hpp>
#include <distil_xlstm/io/json.hpp>

#include "processes.hpp"

namespace program {

/// The first key whose value differs, or that only one of the two has.
inline std::optional<std::string> difference(const dx::io::json& a, const dx::io::json& b) {
  dx::io::json keys = a;
  keys.update(b);
  for (const auto& item : keys.items())
    if (!a.contains(item.key()) || !b.contains(item.key()) || a.at(item.key()) != b.at(item.key()))
      return item.key();
  return {};
}
/// What an error says of a key's value.
inline std::string value_text(const dx::io::json& object, const std::string& key) {
  return object.contains(key) ? object.at(key).dump() : "none";
}

/// Throws `error` on all processes where one of them has another job than rank 0: `mine` are the facts that make it
/// what it is, a model's hash, a text's, options. The error names what is another.
inline void require_one_job(const dx::io::json& mine) {
  auto& all = processes();
  if (all.size() == 1) return;
  const auto first = dx::io::json::parse(dx::comm::from_root(all, mine.dump()));
  dx::comm::on_every_rank(all, [&] {
    if (const auto key = difference(first, mine))
      dx::fail("another ", *key, " than rank 0: ", value_text(mine, *key), ", which has ",
               value_text(first, *key));
  });
}

}  // namespace program
