#include "objective.hpp"

#include <algorithm>
#include <cmath>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include <distil_xlstm/core/from_chars.hpp>

namespace program {
namespace {

using dx::loss::alignment;
using dx::loss::logits_kind;

struct term_rule {
  std::string_view name;
  std::vector<std::string_view> keys;
  /// It compares hidden states, not logits.
  bool hidden() const { return !keys.empty() && keys[0] == "layers"; }
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

/// One term as it is read: an entry of its own kind, and the weight of either.
struct term {
  const term_rule& rule;
  dx::schedule::any<double> weight = 1.0;
  dx::loss::any_objective::logits_entry logits = {};
  alignment form = alignment::none;

  std::string name() const { return std::string(rule.name); }
};

std::string listed(const std::vector<std::string_view>& names) {
  std::string out;
  for (const auto name : names) (out += out.empty() ? "" : ", ") += name;
  return out;
}

/// What `frobenius(layers=...)` calls a form.
std::string_view layers_name(alignment form) {
  return form == alignment::paper ? "paper" : name_of(layers_of(form));
}
/// A term's forms: the first is that which is meant where none is named.
std::vector<alignment> forms_of(std::string_view name) {
  std::vector<alignment> forms;
  for (const auto a : {alignment::average, alignment::ratio, alignment::block_wise, alignment::paper,
                       alignment::cosine, alignment::mse})
    if (term_name_of(a) == name) forms.push_back(a);
  return forms;
}

std::string_view name_of_tail(dx::loss::tail t) {
  return t == dx::loss::tail::ignored ? "ignored" : "one_class";
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
  const auto [end, status] = dx::from_chars(text.data(), text.data() + text.size(), x);
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

void set(term& t, std::string_view key, const std::string& value) {
  const std::string of = t.name() + "'s " + std::string(key);
  /// That of `known` whose name is given.
  const auto chosen = [&](const auto& known, const auto& name) {
    std::vector<std::string_view> names;
    for (const auto x : known) {
      if (name(x) == value) return x;
      names.push_back(name(x));
    }
    dx::fail(of, " is '", value, "' (", listed(names), names.size() > 1 ? " are" : " is", " known)");
  };
  if (key == "T") {
    auto& s = t.logits.temperature = schedule(value, of);
    dx::require(s.from > 0 && s.to > 0, of, " is ", value, ", not positive");
  } else if (key == "beta" || key == "a") {
    t.logits.share = number(value, of);
    dx::require(t.logits.share > 0 && t.logits.share < 1, of, " is ", value, ", not between 0 and 1");
  } else if (key == "k") {
    const double k = number(value, of);
    dx::require(k >= 1 && k <= 1e9 && k == std::floor(k), of, " is ", value, ", not a whole number above 0");
    t.logits.k = static_cast<dx::index>(k);
  } else if (key == "tail") {
    using dx::loss::tail;
    t.logits.rest = chosen(std::vector{tail::one_class, tail::ignored}, name_of_tail);
  } else {
    t.form = chosen(forms_of(t.rule.name), layers_name);
  }
}

void set_arguments(term& t, std::string_view text) {
  auto left = t.rule.keys;
  for (const auto& argument : split(text, ',')) {
    const auto equals = argument.find('=');
    dx::require(!argument.empty(), t.name(), "(", text, "): an argument is missing");
    if (equals != argument.npos) {
      const auto key = trimmed(std::string_view(argument).substr(0, equals));
      const auto at = std::find(left.begin(), left.end(), key);
      dx::require(at != left.end(), t.name(), " has no ", key, " left to set",
                  t.rule.keys.empty() ? ": it takes nothing" : " (it takes " + listed(t.rule.keys) + ")");
      set(t, *at, trimmed(std::string_view(argument).substr(equals + 1)));
      left.erase(at);
    } else {
      dx::require(!left.empty(), t.name(), ": '", argument, "' is one argument too many");
      set(t, left.front(), argument);
      left.erase(left.begin());
    }
  }
}

term term_in(const std::string& text) {
  dx::require(!text.empty(), "a term is missing; an objective is a sum such as 0.5*kl(T=2) + 0.5*ce");
  const auto factors = split(text, '*');
  dx::require(factors.size() <= 2, "'", text, "' has more than one weight");
  const std::string& call = factors.back();
  const auto open = call.find('(');
  const std::string name = trimmed(std::string_view(call).substr(0, open));
  const auto rule = std::find_if(rules().begin(), rules().end(), [&](const auto& r) { return r.name == name; });
  if (rule == rules().end()) {
    std::vector<std::string_view> names;
    for (const auto& r : rules()) names.push_back(r.name);
    dx::fail("'", name, "' is not a term (", listed(names), " are)");
  }
  term t{*rule};
  if (factors.size() == 2) {
    t.weight = schedule(factors[0], "the weight in '" + text + "'");
    dx::require(t.weight.from >= 0 && t.weight.to >= 0, "the weight in '", text, "' is negative");
  }
  if (rule->hidden())
    t.form = forms_of(name).front();
  else
    t.logits.kind = dx::loss::logits_kind_named(name);
  if (open != call.npos) {
    dx::require(call.back() == ')', "'", text, "': a parenthesis is not closed, or something follows it");
    const auto inside = trimmed(std::string_view(call).substr(open + 1, call.size() - open - 2));
    if (!inside.empty()) set_arguments(t, inside);
  }
  dx::require(t.logits.kind != logits_kind::top_k_kl || t.logits.k > 0, "top_k_kl needs its k: top_k_kl(50)");
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
std::string text_of(const term& t) {
  std::string arguments;
  for (const auto key : t.rule.keys) {
    (arguments += arguments.empty() ? "" : ", ").append(key) += "=";
    arguments += key == "T"        ? text_of(t.logits.temperature)
                 : key == "k"      ? std::to_string(t.logits.k)
                 : key == "tail"   ? name_of_tail(t.logits.rest)
                 : key == "layers" ? layers_name(t.form)
                                   : text_of(t.logits.share);
  }
  return text_of(t.weight) + "*" + t.name() + (arguments.empty() ? "" : "(" + arguments + ")");
}

bool always_zero(const dx::schedule::any<double>& weight) { return weight.from == 0 && weight.to == 0; }

}  // namespace

dx::loss::any_objective parse_objective(std::string_view text) {
  dx::loss::any_objective all;
  for (const auto& part : split(text, '+')) {
    term t = term_in(part);
    t.logits.weight = t.weight;
    if (t.rule.hidden())
      all.add({.form = t.form, .weight = t.weight});
    else
      all.add(t.logits);
  }
  // Terms of logits that compare with the teacher are computed where one of them is.
  bool asks_teacher = false, any = false;
  for (const auto& e : std::span(all.logits).first(all.count)) {
    any |= !always_zero(e.weight);
    asks_teacher |= !always_zero(e.weight) && e.kind != logits_kind::ce;
  }
  const bool hidden = all.hidden.form != alignment::none;
  const auto computed = [](bool is, std::string_view name) {
    dx::require(is, "the weight of ", name, " is 0, and nothing else makes it be computed: leave it out");
  };
  for (const auto& e : std::span(all.logits).first(all.count))
    computed(asks_teacher || e.kind == logits_kind::ce, name_of(e.kind));
  computed(!hidden || !always_zero(all.hidden.weight), term_name_of(all.hidden.form));
  dx::require(any || hidden, "no term has a weight above 0");
  return all;
}

std::string text_of(const dx::loss::any_objective& objective) {
  const auto rule = [](std::string_view name) -> const term_rule& {
    return *std::find_if(rules().begin(), rules().end(), [&](const auto& r) { return r.name == name; });
  };
  std::string out;
  const auto add = [&](const term& t) { (out += out.empty() ? "" : " + ") += text_of(t); };
  for (const auto& e : std::span(objective.logits).first(objective.count))
    add({rule(name_of(e.kind)), e.weight, e});
  const auto& h = objective.hidden;
  if (h.form != alignment::none) add({rule(term_name_of(h.form)), h.weight, {}, h.form});
  return out;
}

}  // namespace program
