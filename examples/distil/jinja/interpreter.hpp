#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <ctime>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <distil_xlstm/io/printable.hpp>

#include "functions.hpp"
#include "syntax.hpp"

namespace program::jinja {

/// Names and what they stand for. Names belong to the syntax tree or to the variables of a rendering.
struct scope {
  const scope* outer = nullptr;
  std::vector<std::pair<std::string_view, value>> names = {};

  const value* find(std::string_view name) const {
    for (const scope* s = this; s; s = s->outer)
      for (const auto& [n, x] : s->names)
        if (n == name) return &x;
    return nullptr;
  }
  void set(std::string_view name, value x) {
    for (auto& [n, old] : names)
      if (n == name) {
        old = std::move(x);
        return;
      }
    names.emplace_back(name, std::move(x));
  }
};

struct environment {
  std::vector<std::pair<std::string, value>> variables = {};
  std::vector<std::string> unknown = {};  ///< variables that there may be, but not here: reading one is refused
  std::time_t now = std::time(nullptr);   ///< what strftime_now shows, as local time
  std::int64_t steps = std::int64_t{1} << 24;  ///< how much work a template may do
};

/// Renders a syntax tree, once.
class interpreter {
 public:
  explicit interpreter(const environment& e) : environment_(e), steps_(e.steps) {}

  std::string run(const syntax_tree& tree) {
    scope variables;
    for (const auto& [name, x] : environment_.variables) variables.set(name, x);
    for (const auto& [line, name] : tree.late)
      require(!variables.find(name) && !is_global(name), "line ", line, ": an assignment to ", name,
              ", which a block before it has read, is not supported");
    scope top{&variables};
    std::string out;
    try {
      execute(tree.content, top, out);
    } catch (const distil_xlstm::error& e) {
      fail("line ", line_, ": ", distil_xlstm::io::detail::printable(e.what(), 400));
    }
    return out;
  }

 private:
  enum class flow { on, out, again };  ///< a body ended, by break, by continue
  static constexpr int deepest = 600;

  class level {
   public:
    explicit level(interpreter& i) : depth_(i.depth_) { require(++depth_ <= deepest, "calls nested too deep"); }
    level(const level&) = delete;
    level& operator=(const level&) = delete;
    ~level() { --depth_; }

   private:
    int& depth_;
  };

  void charge(std::size_t bytes) {
    steps_ -= static_cast<std::int64_t>(1 + bytes / 64);
    require(steps_ >= 0, "the template does too much work");
  }
  /// For what reads a value, which is cheaper than what makes it.
  void charge_reading(const value& v) { charge(extent_of(v).weight / 16); }

  static bool is_global(std::string_view name) {
    static constexpr std::string_view all[] = {"range", "namespace", "dict", "raise_exception", "strftime_now"};
    return std::find(std::begin(all), std::end(all), name) != std::end(all);
  }
  void print(std::string& out, std::string_view text) {
    charge(text.size());
    need_room(out.size() + text.size(), 1);
    out += text;
  }

  // Expressions

  value evaluate(const expression& e, scope& s) {
    const level guard(*this);
    const int outer = std::exchange(line_, e.line);
    value x = std::visit(
        [&](const auto& node) {
          using node_type = std::decay_t<decltype(node)>;
          constexpr bool in_place =
              std::is_same_v<node_type, constant> || std::is_same_v<node_type, variable> ||
              std::is_same_v<node_type, attribute> || std::is_same_v<node_type, subscript>;
          value out = of(node, s);
          charge(in_place ? 0 : extent_of(out).weight);
          return out;
        },
        e.node);
    line_ = outer;  // after an error it stays where that happened
    return x;
  }

  value of(const constant& e, scope&) { return e.x; }
  value of(const variable& e, scope& s) {
    if (const value* x = s.find(e.name)) return *x;
    if (is_global(e.name)) return std::make_shared<const callable>(callable{e.name});
    for (const std::string_view global : {"cycler", "joiner", "lipsum"})
      require(e.name != global, "the function ", global, " is not supported");
    require(std::find(environment_.unknown.begin(), environment_.unknown.end(), e.name) ==
                environment_.unknown.end(),
            "the variable ", e.name, " is not supported");
    return missing(e.name + " is undefined");
  }
  value of(const list_display& e, scope& s) {
    std::vector<value> items;
    for (const auto& x : e.items) items.push_back(evaluate(*x, s));
    return e.tuple ? make_tuple(std::move(items)) : make_list(std::move(items));
  }
  value of(const dict_display& e, scope& s) {
    std::vector<std::pair<value, value>> items;
    for (const auto& [key, x] : e.items) {
      value k = evaluate(*key, s);
      items.emplace_back(std::move(k), evaluate(*x, s));
    }
    return make_mapping(std::move(items));
  }
  /// Jinja filters a loop's and a stream's elements as they are asked for, here they are before the first: a
  /// namespace could have changed in between.
  void check_namespace(const value& v) {
    require(!filtering_ || !as_namespace(v), "a namespace in the condition of a loop is not supported");
  }
  value of(const attribute& e, scope& s) {
    const value v = evaluate(*e.of, s);
    check_namespace(v);
    return get_attribute(v, e.name);
  }
  value of(const subscript& e, scope& s) {
    const value v = evaluate(*e.of, s), key = evaluate(*e.key, s);
    check_namespace(v);
    return get_item(v, key);
  }
  value of(const slice& e, scope& s) {
    const value v = evaluate(*e.of, s);
    value bounds[3];
    const value* given[3] = {};
    const expression_ptr* parts[] = {&e.start, &e.stop, &e.step};
    for (std::size_t i = 0; i < 3; ++i)
      if (*parts[i]) given[i] = &(bounds[i] = evaluate(**parts[i], s));
    return sliced(v, given[0], given[1], given[2]);
  }
  value of(const call& e, scope& s) {
    const value function = evaluate(*e.function, s);
    if (!as_callable(function)) not_for(function, "a call");
    return apply(*as_callable(function), evaluate(e.arguments, s));
  }
  value of(const filtered& e, scope& s) {
    const value v = evaluate(*e.of, s);
    return filter(e, v, s);
  }
  value filter(const filtered& e, const value& v, scope& s) {
    const arguments a = evaluate(e.arguments, s);
    charge_reading(v);
    return apply_filter(e.name, v, a);
  }
  value of(const tested& e, scope& s) {
    const value v = evaluate(*e.of, s);
    const arguments a = evaluate(e.arguments, s);
    charge_reading(v);
    return apply_test(e.name, v, a);
  }
  value of(const unary& e, scope& s) {
    const value v = evaluate(*e.x, s);
    return e.op == '!' ? value(!truth(v)) : signed_value(e.op, v);
  }
  value of(const binary& e, scope& s) {
    value left = evaluate(*e.left, s);
    if (e.op == "and" || e.op == "or") return truth(left) == (e.op == "and") ? evaluate(*e.right, s) : left;
    const value right = evaluate(*e.right, s);
    return arithmetic(e.op, left, right);
  }
  value of(const concatenation& e, scope& s) {
    std::string out;
    for (const auto& part : e.parts) {
      const value v = evaluate(*part, s);
      print(out, as<text>(v) ? need_text(v, "~") : str(v));
    }
    return out;
  }
  value of(const comparison& e, scope& s) {
    value left = evaluate(*e.first, s);
    for (const auto& [op, x] : e.rest) {
      value right = evaluate(*x, s);
      charge_reading(left), charge_reading(right);
      if (!compare(op, left, right)) return false;
      left = std::move(right);
    }
    return true;
  }
  value of(const conditional& e, scope& s) {
    if (truth(evaluate(*e.test, s))) return evaluate(*e.yes, s);
    return e.no ? evaluate(*e.no, s) : missing("the condition is false, and there is no else");
  }

  arguments evaluate(const argument_list& list, scope& s) {
    arguments out;
    for (const auto& x : list.positional) out.positional.push_back(evaluate(*x, s));
    for (const auto& [name, x] : list.named) out.named.emplace_back(name, evaluate(*x, s));
    return out;
  }

  // Calls

  value apply(const callable& f, const arguments& a) {
    charge(0);
    if (f.body) return apply_macro(f, a);
    if (f.method) return charge_reading(f.self), call_method(f.self, f.name, a);
    if (f.name == "range") return range(a);
    if (f.name == "namespace") {
      auto values = named_values(f.name, a);
      for (const auto& v : values) need_lasting(v.second);
      return std::make_shared<name_space>(name_space{std::move(values)});
    }
    if (f.name == "dict") {
      std::vector<std::pair<value, value>> items;
      for (auto& [name, x] : named_values(f.name, a)) items.emplace_back(name, x);
      return make_mapping(std::move(items));
    }
    if (f.name == "strftime_now") return time_now(a);
    const auto [message] = a.bind(f.name, {"message"}, 1);
    fail(str(*message));
  }
  value apply_macro(const callable& f, const arguments& a) {
    const macro& m = *f.body;
    require(a.positional.size() <= m.parameters.size(), "the macro ", m.name, " takes ", m.parameters.size(),
            " arguments at most");
    scope s{f.closure};
    std::vector<bool> given(m.parameters.size());
    for (std::size_t i = 0; i < m.parameters.size(); ++i) {
      const std::string& name = m.parameters[i].first;
      const auto at =
          std::find_if(a.named.begin(), a.named.end(), [&](const auto& n) { return n.first == name; });
      const bool positional = i < a.positional.size();
      require(!positional || at == a.named.end(), "the macro ", m.name, " is given ", name, " twice");
      given[i] = positional || at != a.named.end();
      if (given[i]) s.set(name, positional ? a.positional[i] : at->second);
    }
    for (const auto& argument : a.named)
      require(std::any_of(m.parameters.begin(), m.parameters.end(),
                          [&](const auto& p) { return p.first == argument.first; }),
              "the macro ", m.name, " has no parameter ", argument.first);
    for (std::size_t i = 0; i < m.parameters.size(); ++i) {
      if (given[i]) continue;
      const auto& [name, otherwise] = m.parameters[i];
      // The value comes first: a default sees the parameters before it.
      value x = otherwise ? evaluate(*otherwise, s) : missing("the parameter " + name + " is not given");
      s.set(name, std::move(x));
    }
    std::string out;
    execute(m.content, s, out);
    return out;
  }
  static std::vector<std::pair<std::string, value>> named_values(const std::string& function,
                                                                 const arguments& a) {
    std::vector<std::pair<std::string, value>> out;
    require(a.positional.size() <= 1, function, ": takes one dict at most");
    const auto add = [&](const std::string& name, const value& x) {
      const auto at = std::find_if(out.begin(), out.end(), [&](const auto& o) { return o.first == name; });
      if (at == out.end()) return void(out.emplace_back(name, x));
      at->second = x;
    };
    for (const auto& v : a.positional) {
      if (!as_mapping(v)) not_for(v, function);
      for (const auto& [key, x] : as_mapping(v)->items) add(need_text(key, function), x);
    }
    for (const auto& [name, x] : a.named) add(name, x);
    return out;
  }
  value range(const arguments& a) {
    require(a.named.empty() && !a.positional.empty() && a.positional.size() <= 3,
            "range: takes one to three integers");
    std::int64_t bounds[3] = {0, 0, 1};
    for (std::size_t i = 0; i < a.positional.size(); ++i)
      bounds[a.positional.size() == 1 ? 1 : i] = need_int(a.positional[i], "range");
    const auto [start, stop, step] = bounds;
    require(step != 0, "range: the step is 0");
    std::vector<value> out;
    for (std::int64_t i = start; step > 0 ? i < stop : i > stop;) {
      require(out.size() < 100'000, "range: more than 100,000 numbers");
      out.emplace_back(i);
      if (__builtin_add_overflow(i, step, &i)) break;
    }
    return make_sequence(sequence_kind::range, std::move(out));
  }
  value time_now(const arguments& a) const {
    const auto [format] = a.bind("strftime_now", {"format"}, 1);
    const std::string& given = need_text(*format, "strftime_now");
    for (std::size_t i = 0; i < given.size(); ++i) {
      if (given[i] != '%') continue;
      const std::size_t kind = given.substr(i + 1).starts_with('-') ? i + 2 : i + 1;
      require(kind < given.size() &&
                  std::string_view("aAbBcdDeFHIjmMpRSTuUVwWxXyY%").find(given[kind]) != std::string_view::npos,
              "a format of strftime_now that is not supported: ", given);
      i = kind;
    }
    std::tm local{};
    localtime_r(&environment_.now, &local);
    std::string out(64 + 32 * given.size(), '\0');
    out.resize(given.empty() ? 0 : std::strftime(out.data(), out.size(), given.c_str(), &local));
    return out;
  }

  // Statements

  flow execute(const body& statements, scope& s, std::string& out) {
    const level guard(*this);
    for (const auto& one : statements) {
      line_ = one.line;
      charge(0);
      const flow f = std::visit([&](const auto& node) { return run(node, s, out); }, one.node);
      if (f != flow::on) return f;
    }
    return flow::on;
  }

  flow run(const data& d, scope&, std::string& out) { return print(out, d.text), flow::on; }
  flow run(const output& o, scope& s, std::string& out) {
    const value v = evaluate(*o.x, s);
    return print(out, str(v)), flow::on;
  }
  flow run(const assignment& a, scope& s, std::string&) {
    assign(a.to, evaluate(*a.x, s), s);
    return flow::on;
  }
  flow run(const captured& c, scope& s, std::string& out) {
    std::string content;
    scope inner{&s};
    const flow f = execute(c.content, inner, content);
    if (f != flow::on) return f;
    value v = std::move(content);
    for (const auto& one : c.filters) v = filter(one, v, inner);
    if (c.assigned) {
      assign(c.to, std::move(v), s);
    } else {
      print(out, str(v));
    }
    return flow::on;
  }
  flow run(const condition_chain& c, scope& s, std::string& out) {
    for (const auto& [test, content] : c.branches)
      if (truth(evaluate(*test, s))) return execute(content, s, out);
    return execute(c.otherwise, s, out);
  }
  flow run(const for_loop& f, scope& s, std::string& out) {
    const value in = evaluate(*f.in, s);
    charge(extent_of(in).weight);
    loop_state loop{elements(in)};
    if (f.test) {
      const bool outer = std::exchange(filtering_, true);
      std::erase_if(loop.items, [&](const value& x) {
        scope inner{&s};
        assign(f.each, x, inner);
        return !truth(evaluate(*f.test, inner));
      });
      filtering_ = outer;
    }
    bool otherwise = true;
    for (; loop.at < loop.items.size(); ++loop.at) {
      charge(0);
      scope inner{&s};
      inner.set("loop", &std::as_const(loop));
      assign(f.each, loop.items[loop.at], inner);
      const flow end = execute(f.content, inner, out);
      if (end == flow::out) break;
      if (end == flow::on) otherwise = false;  // Jinja's else: no round came to its end
    }
    if (!otherwise) return flow::on;
    scope inner{&s};
    return execute(f.otherwise, inner, out);
  }
  flow run(const macro& m, scope& s, std::string&) {
    s.set(m.name, std::make_shared<const callable>(callable{m.name, none(), &m, &s, false, {.local = true}}));
    return flow::on;
  }
  flow run(const scoped& c, scope& s, std::string& out) {
    scope inner{&s};
    for (const auto& [to, x] : c.variables) assign(to, evaluate(*x, s), inner);
    return execute(c.content, inner, out);
  }
  flow run(const jump& j, scope&, std::string&) { return j.out ? flow::out : flow::again; }

  static void need_lasting(const value& v) {
    require(!extent_of(v).local, "a macro, loop or namespace in a namespace is not supported");
  }
  void assign(const target& to, value x, scope& s) {
    if (!to.parts.empty()) {
      const std::vector<value> parts = elements(x);
      require(parts.size() == to.parts.size(), parts.size(), " values for ", to.parts.size(), " names");
      for (std::size_t i = 0; i < parts.size(); ++i) assign(to.parts[i], parts[i], s);
    } else if (to.attribute.empty()) {
      s.set(to.name, std::move(x));
    } else {
      const value* space = s.find(to.name);
      if (!space || !as_namespace(*space))
        fail("an assignment to ", to.name, ".", to.attribute, ": ", to.name, " is no namespace");
      check_namespace(*space);
      need_lasting(x);
      auto& all = as_namespace(*space)->attributes;
      const auto at =
          std::find_if(all.begin(), all.end(), [&](const auto& a) { return a.first == to.attribute; });
      if (at != all.end()) {
        at->second = std::move(x);
      } else {
        all.emplace_back(to.attribute, std::move(x));
      }
    }
  }

  const environment& environment_;
  std::int64_t steps_;
  int depth_ = 0, line_ = 1;
  bool filtering_ = false;  ///< in the condition of a loop
};

}  // namespace program::jinja
