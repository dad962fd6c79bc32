#include "objective.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>
#include <span>
#include <system_error>

namespace program {
namespace {

struct term_rule {
  std::string_view name;
  std::vector<std::string_view> keys;
};
const std::vector<term_rule>& rules() {
  static const std::vector<term_rule> all = {
      {"kl", {"T"}},
      {"reverse_kl", {"T"}},
      {"ce", {}},
      {"jsd", {"beta", "T"}},
      {"skew_kl", {"a", "T"}},
      {"skew_reverse_kl", {"a", "T"}},
      {"tvd", {"T"}},
      {"top_k_kl", {"k", "tail", "T"}},
      {"frobenius", {"layers"}},
      {"cosine", {"layers"}},
      {"mse", {"layers"}},
  };
  return all;
}

template <class Range, class Name>
std::string listed(const Range& all, const Name& name) {
  std::string out;
  for (const auto& x : all) (out += out.empty() ? "" : ", ") += name(x);
  return out;
}

std::string trimmed(std::string_view text) {
  const auto first = text.find_first_not_of(" \t\n"), last = text.find_last_not_of(" \t\n");
  return first == text.npos ? std::string() : std::string(text.substr(first, last - first + 1));
}

/// Cuts `text` at each `mark` outside parentheses.
std::vector<std::string> split(std::string_view text, char mark) {
  std::vector<std::string> parts;
  std::size_t begin = 0;
  int depth = 0;
  for (std::size_t i = 0; i <= text.size(); ++i) {
    if (i < text.size()) {
      depth += (text[i] == '(') - (text[i] == ')');
      if (text[i] != mark || depth > 0) continue;
      // The sign of an exponent, as in 1e+2, is no sum.
      if (mark == '+' && i > 1 && (text[i - 1] == 'e' || text[i - 1] == 'E') && text[i - 2] >= '0' &&
          text[i - 2] <= '9')
        continue;
    }
    parts.push_back(trimmed(text.substr(begin, i - begin)));
    begin = i + 1;
  }
  return parts;
}

std::optional<double> number_in(std::string_view text) {
  double x = 0;
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), x);
  if (status != std::errc() || end != text.data() + text.size() || !std::isfinite(x)) return {};
  return x;
}
double number(const std::string& text, const std::string& of) {
  const auto x = number_in(text);
  dx::require(x.has_value(), of, " is '", text, "', not a number");
  return *x;
}

dx::schedule::any<double> schedule(const std::string& text, const std::string& of) {
  const auto parts = split(text, ':');
  dx::require(parts.size() <= 3, of, " is '", text, "'; a schedule is FROM:TO or FROM:TO:SHAPE");
  for (std::size_t i = 0; i < parts.size() && i < 2; ++i)
    dx::require(number_in(parts[i]).has_value(), of, " is '", text,
                "', neither a number nor a schedule such as 2:1:cosine");
  const double from = *number_in(parts[0]), to = parts.size() > 1 ? *number_in(parts[1]) : from;
  auto s = dx::schedule::any<double>::named(parts.size() > 2 ? parts[2] : "linear", from, to);
  return from == to ? from : s;
}

void set(objective_term& t, std::string_view key, const std::string& value) {
  const std::string of = t.name + "'s " + std::string(key);
  const auto one_of = [&](std::span<const std::string_view> known) {
    dx::require(std::find(known.begin(), known.end(), value) != known.end(), of, " is '", value, "' (",
                listed(known, [](auto x) { return std::string(x); }), " are known)");
    return value;
  };
  if (key == "T") {
    t.temperature = schedule(value, of);
    dx::require(t.temperature.from > 0 && t.temperature.to > 0, of, " is ", value, ", not positive");
  } else if (key == "beta" || key == "a") {
    t.share = number(value, of);
    dx::require(t.share > 0 && t.share < 1, of, " is ", value, ", not between 0 and 1");
  } else if (key == "k") {
    const double k = number(value, of);
    dx::require(k >= 1 && k <= 1e9 && k == std::floor(k), of, " is ", value, ", not a whole number above 0");
    t.k = static_cast<dx::index>(k);
  } else if (key == "tail") {
    constexpr std::string_view known[] = {"one_class", "ignored"};
    t.tail = one_of(known);
  } else {
    constexpr std::string_view known[] = {"average", "ratio", "block_wise", "paper"};
    t.layers = one_of(std::span(known).first(t.name == "frobenius" ? 4 : 3));
  }
}

void set_arguments(objective_term& t, const term_rule& rule, std::string_view text) {
  std::vector<std::string_view> left(rule.keys.begin(), rule.keys.end());
  for (const auto& argument : split(text, ',')) {
    const auto equals = argument.find('=');
    dx::require(!argument.empty(), t.name, "(", text, "): an argument is missing");
    if (equals != argument.npos) {
      const auto key = trimmed(std::string_view(argument).substr(0, equals));
      const auto at = std::find(left.begin(), left.end(), key);
      dx::require(at != left.end(), t.name, " has no ", key, " left to set",
                  rule.keys.empty()
                      ? std::string(": it takes nothing")
                      : " (it takes " + listed(rule.keys, [](auto x) { return std::string(x); }) + ")");
      set(t, *at, trimmed(std::string_view(argument).substr(equals + 1)));
      left.erase(at);
    } else {
      dx::require(!left.empty(), t.name, ": '", argument, "' is one argument too many");
      set(t, left.front(), argument);
      left.erase(left.begin());
    }
  }
}

objective_term term_in(const std::string& text) {
  dx::require(!text.empty(), "a term is missing; an objective is a sum such as 0.5*kl(T=2) + 0.5*ce");
  const auto factors = split(text, '*');
  dx::require(factors.size() <= 2, "'", text, "' has more than one weight");
  objective_term t;
  if (factors.size() == 2) {
    t.weight = schedule(factors[0], "the weight in '" + text + "'");
    dx::require(t.weight.from >= 0 && t.weight.to >= 0, "the weight in '", text, "' is negative");
  }
  const std::string& call = factors.back();
  const auto open = call.find('(');
  t.name = trimmed(std::string_view(call).substr(0, open));
  const auto rule =
      std::find_if(rules().begin(), rules().end(), [&](const auto& r) { return r.name == t.name; });
  dx::require(rule != rules().end(), "'", t.name, "' is not a term (",
              listed(rules(), [](const auto& r) { return std::string(r.name); }), " are)");
  if (open != call.npos) {
    dx::require(call.back() == ')', "'", text, "': a parenthesis is not closed, or something follows it");
    const auto inside = trimmed(std::string_view(call).substr(open + 1, call.size() - open - 2));
    if (!inside.empty()) set_arguments(t, *rule, inside);
  }
  dx::require(t.name != "top_k_kl" || t.k > 0, "top_k_kl needs its k: top_k_kl(50)");
  return t;
}

std::string text_of(double x) {
  char text[32];
  return {text, std::to_chars(text, text + sizeof text, x).ptr};
}
std::string text_of(const dx::schedule::any<double>& s) {
  if (s.shape == dx::schedule::shape::constant) return text_of(s.from);
  return text_of(s.from) + ":" + text_of(s.to) + ":" + std::string(s.name());
}

}  // namespace

std::vector<objective_term> parse_objective(std::string_view text) {
  std::vector<objective_term> all;
  for (const auto& part : split(text, '+')) {
    all.push_back(term_in(part));
    for (const auto& t : std::span(all).first(all.size() - 1)) {
      dx::require(t.name != all.back().name, t.name, " appears twice");
      dx::require(!t.hidden() || !all.back().hidden() ||
                      (t.layers == "paper" ? "average" : t.layers) ==
                          (all.back().layers == "paper" ? "average" : all.back().layers),
                  t.name, " compares layers ", t.layers, ", ", all.back().name, " ", all.back().layers,
                  "; the terms of an objective compare the same");
    }
  }
  return all;
}

std::string text_of(const std::vector<objective_term>& objective) {
  std::string out;
  for (const auto& t : objective) {
    const auto& rule =
        *std::find_if(rules().begin(), rules().end(), [&](const auto& r) { return r.name == t.name; });
    std::string arguments;
    for (const auto key : rule.keys) {
      arguments += (arguments.empty() ? "" : ", ") + std::string(key) + "=";
      arguments += key == "T"        ? text_of(t.temperature)
                   : key == "k"      ? std::to_string(t.k)
                   : key == "tail"   ? t.tail
                   : key == "layers" ? t.layers
                                     : text_of(t.share);
    }
    out += (out.empty() ? "" : " + ") + text_of(t.weight) + "*" + t.name;
    if (!arguments.empty()) out += "(" + arguments + ")";
  }
  return out;
}

}  // namespace program
