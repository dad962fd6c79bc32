#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <distil_xlstm/block/rotary.hpp>
#include <distil_xlstm/io/gguf.hpp>
#include <distil_xlstm/io/json_fwd.hpp>

namespace distil_xlstm {

/// The scaling that divides the frequencies theta^(-i / n) by these n numbers, to 1e-5 of each, or none. Only what
/// they tell is found: of llama3, low / original and high / original, so that `original` is 8192; and where fewer
/// than two lie between 1 and the largest, one of the scalings that give them.
std::optional<rope_scaling> find_rope_scaling(double theta, const std::vector<double>& divisors);

namespace detail {

/// What a field `key` of config.json, rope_parameters or rope_scaling, says beside the base. Throws `error` that
/// names what is not done.
rope_scaling read_rope_scaling(const io::json& rope, const char* key, const std::string& name);

/// What a GGUF file of architecture `a` says: its keys, or the numbers of rope_freqs.weight, which divide.
rope_scaling read_rope_scaling(const io::gguf_file& file, const std::string& a, index head_dim, double theta);

}  // namespace detail

}  // namespace distil_xlstm

#ifndef DISTIL_XLSTM_COMPILED
#include <distil_xlstm/model/read_rope_scaling.ipp>
#endif
