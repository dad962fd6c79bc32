#pragma once

#include <algorithm>

#include <distil_xlstm/io/tokenizer_data.hpp>

namespace distil_xlstm::io::detail {

/// Fills `end_of_text`: eos, and the tokens by which the family's models end a text or a turn.
inline void collect_ends(tokenizer_data& d) {
  auto& ends = d.end_of_text;
  if (d.eos >= 0) ends.push_back(d.eos);
  for (const auto& s : d.specials)
    for (const char* name : {"<|endoftext|>", "<|im_end|>", "<|end_of_text|>", "<|eot_id|>", "<|eom_id|>"})
      if (s.text == name) ends.push_back(s.id);
  std::sort(ends.begin(), ends.end());
  ends.erase(std::unique(ends.begin(), ends.end()), ends.end());
}

}  // namespace distil_xlstm::io::detail
