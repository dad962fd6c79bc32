#pragma once

#include <distil_xlstm/core/config.hpp>
#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/model/read_rope_scaling.hpp>

namespace distil_xlstm {

DISTIL_XLSTM_INLINE std::optional<rope_scaling> find_rope_scaling(double theta,
                                                                  const std::vector<double>& divisors) {
  using kind = rope_scaling::kind;
  constexpr double tolerance = 1e-5;
  struct point {
    double frequency, s;  ///< s as `rope_scaling` defines it
  };
  const std::size_t n = divisors.size();
  const auto frequency = [&](std::size_t i) {
    return std::pow(theta, -static_cast<double>(i) / static_cast<double>(n));
  };
  const auto fits = [&](const rope_scaling& s) {
    for (std::size_t i = 0; i < n; ++i)
      if (!(std::abs(s.divisor(frequency(i)) - divisors[i]) <= tolerance * divisors[i])) return false;
    return true;
  };
  if (n == 0) return {};
  const double factor = *std::max_element(divisors.begin(), divisors.end());
  if (!std::isfinite(factor) || !(factor > 0)) return {};
  for (const rope_scaling& s : {rope_scaling{}, rope_scaling{kind::linear, factor}, {kind::llama3, factor}})
    if (fits(s)) return s;
  if (!(factor > 1)) return {};

  std::optional<point> above, below;  // the last pair that is not slowed, and the first that is slowed wholly
  std::vector<point> between;
  for (std::size_t i = 0; i < n; ++i) {
    const point p{frequency(i), (1 / divisors[i] - 1 / factor) / (1 - 1 / factor)};
    if (divisors[i] <= 1 + tolerance)
      above = point{p.frequency, 1};
    else if (divisors[i] < factor * (1 - tolerance))
      between.push_back(p);
    else if (!below)
      below = point{p.frequency, 0};
  }
  const auto through = [&](point a, point b) -> std::optional<rope_scaling> {
    const double slope = (a.s - b.s) / (a.frequency - b.frequency), offset = slope * a.frequency - a.s;
    rope_scaling s{kind::llama3, factor};
    const double range = s.original / (6.283185307179586476925 * slope);
    s.low = offset * range, s.high = s.low + range;
    rope_scaling whole = s;
    whole.low = std::round(s.low), whole.high = std::round(s.high);
    for (const rope_scaling& each : {whole, s})
      if (each.low > 0 && each.low < each.high && fits(each)) return each;
    return {};
  };
  if (between.size() > 1) return through(between.front(), between.back());
  if (between.empty()) return above && below ? through(*above, *below) : std::nullopt;
  std::optional<rope_scaling> found;
  if (above) found = through(*above, between.front());
  if (!found && below) found = through(between.front(), *below);
  return found;
}

}  // namespace distil_xlstm

namespace distil_xlstm::detail {

DISTIL_XLSTM_INLINE rope_scaling read_rope_scaling(const io::json& rope, const char* key,
                                                   const std::string& name) {
  const std::string where = name + ": " + key;
  require(rope.is_object(), where, " must be an object");
  const auto type = io::get_or<std::string>(rope, "rope_type", where,
                                            io::get_or<std::string>(rope, "type", where, "default"));
  rope_scaling s;
  std::vector<std::string_view> fields = {"rope_type", "type", "rope_theta", "partial_rotary_factor"};
  if (type == "linear" || type == "llama3") {
    fields.push_back("factor");
    s.type = rope_scaling::kind::linear;
    s.factor = io::get<double>(rope, "factor", where);
  } else {
    require(type == "default", where, ": rope type '", io::detail::printable(type),
            "' is not supported (default, linear and llama3 are)");
  }
  if (type == "llama3") {
    fields.insert(fields.end(), {"low_freq_factor", "high_freq_factor", "original_max_position_embeddings"});
    s.type = rope_scaling::kind::llama3;
    s.low = io::get<double>(rope, "low_freq_factor", where);
    s.high = io::get<double>(rope, "high_freq_factor", where);
    s.original = io::get<double>(rope, "original_max_position_embeddings", where);
  }
  for (const auto& [field, value] : rope.items())
    require(std::find(fields.begin(), fields.end(), field) != fields.end(), where, ": ",
            io::detail::printable(field), " is not supported");
  require(io::get_or<double>(rope, "partial_rotary_factor", where, 1.0) == 1.0, where,
          ": partial_rotary_factor other than 1 is not supported");
  return s;
}

DISTIL_XLSTM_INLINE rope_scaling read_rope_scaling(const io::gguf_file& file, const std::string& a,
                                                   index head_dim, double theta) {
  const std::string& name = file.path();
  // The older key means the same; 0 is no factor.
  const double given =
      file.get_f64_or(a + ".rope.scaling.factor", file.get_f64_or(a + ".rope.scale_linear", 0));
  const auto type = file.get_string_or(a + ".rope.scaling.type", given == 0 ? "none" : "linear");
  require(type == "none" || type == "linear", name, ": ", a, ".rope.scaling.type '",
          io::detail::printable(type), "' is not supported (none and linear are)");
  const double attention = file.get_f64_or(a + ".rope.scaling.attn_factor", 1);
  require(attention == 1, name, ": ", a, ".rope.scaling.attn_factor ", attention, " is not supported (1 is)");
  rope_scaling s;
  if (type == "linear" && given != 0 && given != 1) s = {rope_scaling::kind::linear, given};

  const io::tensor_info* divisors = file.find("rope_freqs.weight");
  if (!divisors) return s;
  require(s == rope_scaling{}, name, ": both ", a,
          ".rope.scaling.factor and the tensor rope_freqs.weight: that is not supported");
  require(divisors->readable && divisors->dtype == dtype::f32 &&
              divisors->shape == std::vector<index>{head_dim / 2},
          name, ": tensor rope_freqs.weight is ", divisors->type, " ", io::detail::shape_text(divisors->shape),
          " instead of F32 [", head_dim / 2, "]");
  const auto numbers = divisors->values<float>();
  const auto found = find_rope_scaling(theta, {numbers.begin(), numbers.end()});
  require(
      found.has_value(), name,
      ": the numbers of tensor rope_freqs.weight are those of no scaling that is supported (linear and llama3 "
      "are)");
  return *found;
}

}  // namespace distil_xlstm::detail
