#pragma once

#include <span>

#include <distil_xlstm/distil/evaluate.hpp>
#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/io/token_file.hpp>
#include <distil_xlstm/model/linearised.hpp>

#include "engine.hpp"
#include "linearise_options.hpp"

namespace program {

/// What a student has in the place of its teacher's attention.
struct mixer_choice {
  dx::linearised_config config;  ///< mixers, window, sinks and features; the teacher's part is not set
  dx::io::json kept =
      dx::io::json::array();  ///< what each choice of attention cost; empty: none was looked for
};

/// The mixers that --mixers lists; or those that --keep-attention finds, without training, by the NLL of `needles` and,
/// with --keep-kl, the divergence from the teacher on `text` in windows of `window` tokens. Throws `usage_error` where a
/// list does not fit the teacher, of which `facts` are.
mixer_choice choose_mixers(engine& machine, const teacher_facts& facts, const linearise_options& o,
                           std::span<const dx::continuation> needles, const dx::io::token_file& text,
                           dx::index window);

}  // namespace program
