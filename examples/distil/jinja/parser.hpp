#pragma once

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <distil_xlstm/core/from_chars.hpp>
#include <distil_xlstm/io/printable.hpp>

#include "functions.hpp"
#include "lexer.hpp"
#include "syntax.hpp"

namespace program::jinja {

/// Jinja's grammar by recursive descent, each function one level of precedence. What is left out of it (blocks
/// and other files, call, recursive loops, *args) is refused by its name and line, and so is a filter, a test
/// or a tag that is not known.
class parser {
 public:
  explicit parser(std::string_view source) : tokens_(lexer(source).run()) {}

  syntax_tree run() {
    body content = statements({});
    return {std::move(content), std::move(late_)};
  }

 private:
  static constexpr std::size_t deepest = 200;

  // Tokens

  const token& here() const { return tokens_[at_]; }
  const token& ahead() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  const token& next() {
    const token& t = tokens_[at_];
    if (t.kind != token::end) ++at_;
    return t;
  }
  bool is_op(std::string_view op) const { return here().kind == token::op && here().text == op; }
  bool is_name(std::string_view name) const { return here().kind == token::name && here().text == name; }
  bool accept_op(std::string_view op) { return is_op(op) && (next(), true); }
  bool accept_name(std::string_view name) { return is_name(name) && (next(), true); }

  template <class... What>
  [[noreturn]] void refuse(int line, const What&... what) const {
    fail("line ", line, ": ", what...);
  }
  std::string shown(const token& t) const {
    switch (t.kind) {
      case token::data: return "text";
      case token::variable_begin: return "{{";
      case token::variable_end: return "}}";
      case token::block_begin: return "{%";
      case token::block_end: return "%}";
      case token::end: return "the end of the template";
      default: return distil_xlstm::io::detail::printable(t.text, 60);
    }
  }
  [[noreturn]] void unexpected() const { refuse(here().line, "unexpected ", shown(here())); }
  void expect_op(std::string_view op) {
    if (!accept_op(op)) refuse(here().line, op, " is expected, not ", shown(here()));
  }
  void expect(token::kind_type kind, std::string_view what) {
    if (here().kind != kind) refuse(here().line, what, " is expected, not ", shown(here()));
    next();
  }
  std::string expect_name() {
    if (here().kind != token::name) refuse(here().line, "a name is expected, not ", shown(here()));
    return next().text;
  }

  /// Counts how deep the descent is.
  class level {
   public:
    explicit level(parser& p) : p_(p) {
      if (++p.depth_ > deepest) p.refuse(p.here().line, "nested more than ", deepest, " deep");
    }
    level(const level&) = delete;
    level& operator=(const level&) = delete;
    ~level() { --p_.depth_; }

   private:
    parser& p_;
  };

  // Names. Jinja decides before it renders which block a name belongs to: where a block assigns to a variable of
  // the rendering after a block in it has read it, and does not itself before, the reader finds nothing there.

  struct block_names {
    std::set<std::string> own = {}, of_inner = {};
  };
  void reads(const std::string& name) {
    if (!blocks_.back().own.insert(name).second) return;
    for (auto b = blocks_.rbegin() + 1; b != blocks_.rend() && !b->own.contains(name); ++b)
      b->of_inner.insert(name);
  }
  void assigns(int line, const std::string& name) {
    const bool known =
        std::any_of(blocks_.begin(), blocks_.end(), [&](const auto& b) { return b.own.contains(name); });
    if (!known && blocks_.back().of_inner.contains(name)) late_.emplace_back(line, name);
    blocks_.back().own.insert(name);
  }
  void assigns(int line, const target& to) {
    for (const auto& part : to.parts) assigns(line, part);
    if (to.parts.empty() && to.attribute.empty()) assigns(line, to.name);
    if (!to.attribute.empty()) reads(to.name);
  }
  /// What is parsed while it lives has names of its own.
  class inner_block {
   public:
    explicit inner_block(parser& p) : p_(p) { p.blocks_.emplace_back(); }
    inner_block(const inner_block&) = delete;
    inner_block& operator=(const inner_block&) = delete;
    ~inner_block() { p_.blocks_.pop_back(); }

   private:
    parser& p_;
  };

  // Expressions

  static void deepen(std::size_t& depth, const expression_ptr& x) {
    if (x) depth = std::max(depth, x->depth + 1);
  }
  static void deepen(std::size_t& depth, const argument_list& a) {
    for (const auto& x : a.positional) deepen(depth, x);
    for (const auto& x : a.named) deepen(depth, x.second);
  }
  template <class Node>
  expression_ptr make(int line, Node node) {
    std::size_t depth = 0;
    if constexpr (requires { node.of; }) deepen(depth, node.of);
    if constexpr (requires { node.key; }) deepen(depth, node.key);
    if constexpr (requires { node.arguments; }) deepen(depth, node.arguments);
    if constexpr (requires { node.function; }) deepen(depth, node.function);
    if constexpr (requires { node.left; }) deepen(depth, node.left), deepen(depth, node.right);
    if constexpr (requires { node.yes; })
      deepen(depth, node.test), deepen(depth, node.yes), deepen(depth, node.no);
    if constexpr (requires { node.first; }) deepen(depth, node.first);
    if (depth > deepest) refuse(line, "an expression of more than ", deepest, " operations in a row");
    return std::make_unique<const expression>(expression{line, depth, std::move(node)});
  }

  expression_ptr expr(bool with_conditional = true) {
    const level guard(*this);
    const int line = here().line;
    auto x = disjunction();
    while (with_conditional && accept_name("if")) {
      auto test = disjunction();
      auto no = accept_name("else") ? expr() : nullptr;
      x = make(line, conditional{std::move(test), std::move(x), std::move(no)});
    }
    return x;
  }
  expression_ptr disjunction() {
    auto x = conjunction();
    while (is_name("or")) x = make_binary(std::move(x), &parser::conjunction);
    return x;
  }
  expression_ptr conjunction() {
    auto x = negation();
    while (is_name("and")) x = make_binary(std::move(x), &parser::negation);
    return x;
  }
  expression_ptr negation() {
    const level guard(*this);
    const int line = here().line;
    if (accept_name("not")) return make(line, unary{'!', negation()});
    return compared();
  }
  expression_ptr compared() {
    const int line = here().line;
    comparison c{sum(), {}};
    for (;;) {
      std::string op = here().text;
      const bool symbol = here().kind == token::op &&
                          (op == "==" || op == "!=" || op == "<" || op == "<=" || op == ">" || op == ">=");
      if (symbol || is_name("in")) {
        next();
      } else if (is_name("not") && ahead().kind == token::name && ahead().text == "in") {
        next(), next();
        op = "not in";
      } else {
        break;
      }
      c.rest.emplace_back(std::move(op), sum());
    }
    return c.rest.empty() ? std::move(c.first) : make(line, std::move(c));
  }
  expression_ptr make_binary(expression_ptr left, expression_ptr (parser::*level_above)()) {
    const int line = here().line;
    std::string op = next().text;
    auto right = (this->*level_above)();
    return make(line, binary{std::move(op), std::move(left), std::move(right)});
  }
  expression_ptr sum() {
    auto x = concatenated();
    while (is_op("+") || is_op("-")) x = make_binary(std::move(x), &parser::concatenated);
    return x;
  }
  expression_ptr concatenated() {
    const int line = here().line;
    concatenation c;
    c.parts.push_back(product());
    while (accept_op("~")) c.parts.push_back(product());
    return c.parts.size() == 1 ? std::move(c.parts[0]) : make(line, std::move(c));
  }
  expression_ptr product() {
    auto x = power();
    while (is_op("*") || is_op("/") || is_op("//") || is_op("%")) x = make_binary(std::move(x), &parser::power);
    return x;
  }
  expression_ptr power() {
    auto x = signed_operand();
    while (is_op("**")) x = make_binary(std::move(x), &parser::signed_operand);
    return x;
  }
  expression_ptr signed_operand() { return operand(true); }
  expression_ptr operand(bool with_filters) {
    const level guard(*this);
    const int line = here().line;
    auto x = is_op("-") || is_op("+") ? make_sign(line) : postfix(primary());
    x = postfix(std::move(x));
    while (with_filters) {
      if (accept_op("|")) {
        auto f = filter(std::move(x));
        x = make(line, std::move(f));
      } else if (is_name("is")) {
        x = test(std::move(x));
      } else if (is_op("(")) {
        x = called(std::move(x));
      } else {
        break;
      }
    }
    return x;
  }
  expression_ptr make_sign(int line) {
    const char op = next().text[0];
    return make(line, unary{op, operand(false)});
  }

  expression_ptr primary() {
    const int line = here().line;
    if (here().kind == token::name) {
      std::string name = next().text;
      if (name == "true" || name == "True") return make(line, constant{true});
      if (name == "false" || name == "False") return make(line, constant{false});
      if (name == "none" || name == "None") return make(line, constant{none()});
      if (macros_ > 0 && (name == "varargs" || name == "kwargs" || name == "caller"))
        refuse(line, name, " of a macro is not supported");
      reads(name);
      return make(line, variable{std::move(name)});
    }
    if (here().kind == token::string) {
      std::string text;
      while (here().kind == token::string) text += next().text;
      return make(line, constant{std::move(text)});
    }
    if (here().kind == token::integer) {
      const std::string& digits = next().text;
      std::int64_t x = 0;
      const auto [end, status] = std::from_chars(digits.data(), digits.data() + digits.size(), x);
      if (status != std::errc()) refuse(line, "an integer beyond 64 bits");
      return make(line, constant{x});
    }
    if (here().kind == token::real) {
      const std::string& digits = next().text;
      double x = 0;
      const auto [end, status] = distil_xlstm::from_chars(digits.data(), digits.data() + digits.size(), x);
      if (status != std::errc()) refuse(line, "a number out of the range of double precision");
      return make(line, constant{x});
    }
    if (accept_op("(")) {
      auto x = tuple(true, true);
      expect_op(")");
      return x;
    }
    if (accept_op("[")) {
      list_display list{false, {}};
      while (!is_op("]")) {
        if (!list.items.empty()) expect_op(",");
        if (is_op("]")) break;
        list.items.push_back(expr());
      }
      expect_op("]");
      return make_display(line, std::move(list));
    }
    if (accept_op("{")) {
      dict_display dict;
      std::size_t depth = 0;
      while (!is_op("}")) {
        if (!dict.items.empty()) expect_op(",");
        if (is_op("}")) break;
        auto key = expr();
        expect_op(":");
        auto x = expr();
        deepen(depth, key), deepen(depth, x);
        dict.items.emplace_back(std::move(key), std::move(x));
      }
      expect_op("}");
      return std::make_unique<const expression>(expression{line, depth, std::move(dict)});
    }
    unexpected();
  }
  expression_ptr make_display(int line, list_display list) {
    std::size_t depth = 0;
    for (const auto& x : list.items) deepen(depth, x);
    return std::make_unique<const expression>(expression{line, depth, std::move(list)});
  }

  /// One expression, or several with commas between: a tuple.
  expression_ptr tuple(bool with_conditional = true, bool in_parentheses = false) {
    const int line = here().line;
    list_display list{true, {}};
    bool comma = false;
    const auto at_end = [&] {
      return here().kind == token::variable_end || here().kind == token::block_end || is_op(")");
    };
    while (!at_end()) {
      list.items.push_back(expr(with_conditional));
      if (!accept_op(",")) break;
      comma = true;
    }
    if (!comma && list.items.size() == 1) return std::move(list.items[0]);
    if (list.items.empty() && !in_parentheses) unexpected();
    return make_display(line, std::move(list));
  }

  expression_ptr postfix(expression_ptr x) {
    for (;;) {
      const int line = here().line;
      if (accept_op(".")) {
        if (here().kind == token::integer) {
          auto key = primary();
          x = make(line, subscript{std::move(x), std::move(key)});
        } else {
          x = make(line, attribute{std::move(x), expect_name()});
        }
      } else if (accept_op("[")) {
        x = subscribed(line, std::move(x));
      } else if (is_op("(")) {
        x = called(std::move(x));
      } else {
        return x;
      }
    }
  }
  expression_ptr subscribed(int line, expression_ptr of) {
    expression_ptr start = is_op(":") ? nullptr : expr();
    if (accept_op("]")) return make(line, subscript{std::move(of), std::move(start)});
    if (!accept_op(":")) refuse(line, "a subscript of several values is not supported");
    const auto bound = [&] { return is_op(":") || is_op("]") ? nullptr : expr(); };
    auto stop = bound();
    auto step = accept_op(":") ? bound() : nullptr;
    expect_op("]");
    std::size_t depth = 0;
    for (const auto* part : {&of, &start, &stop, &step}) deepen(depth, *part);
    if (depth > deepest) refuse(line, "an expression of more than ", deepest, " operations in a row");
    return std::make_unique<const expression>(
        expression{line, depth, slice{std::move(of), std::move(start), std::move(stop), std::move(step)}});
  }

  argument_list arguments() {
    argument_list out;
    expect_op("(");
    while (!is_op(")")) {
      if (is_op("*") || is_op("**")) refuse(here().line, "arguments by * and ** are not supported");
      if (here().kind == token::name && ahead().kind == token::op && ahead().text == "=") {
        std::string name = next().text;
        next();
        for (const auto& other : out.named)
          if (other.first == name) refuse(here().line, "the argument ", name, " is given twice");
        out.named.emplace_back(std::move(name), expr());
      } else {
        if (!out.named.empty()) refuse(here().line, "an argument without a name after one with a name");
        out.positional.push_back(expr());
      }
      if (!accept_op(",")) break;
    }
    expect_op(")");
    return out;
  }
  expression_ptr called(expression_ptr function) {
    const int line = here().line;
    auto given = arguments();
    return make(line, call{std::move(function), std::move(given)});
  }
  std::string dotted_name() {
    std::string name = expect_name();
    while (accept_op(".")) name += "." + expect_name();
    return name;
  }
  /// After its "|".
  filtered filter(expression_ptr of) {
    const int line = here().line;
    std::string name = dotted_name();
    if (!is_filter(name)) refuse(line, "the filter ", name, " is not supported");
    return {std::move(of), std::move(name), is_op("(") ? arguments() : argument_list()};
  }
  expression_ptr test(expression_ptr of) {
    const int line = next().line;
    const bool negated = accept_name("not");
    tested t{std::move(of), dotted_name(), {}};
    if (!is_test(t.name)) refuse(line, "the test ", t.name, " is not supported");
    const auto kind = here().kind;
    if (is_op("(")) {
      t.arguments = arguments();
    } else if ((kind == token::name && !is_name("else") && !is_name("or") && !is_name("and")) ||
               kind == token::string || kind == token::integer || kind == token::real || is_op("[") ||
               is_op("{")) {
      if (is_name("is")) refuse(line, "a test of a test's result");
      t.arguments.positional.push_back(postfix(primary()));
    }
    auto x = make(line, std::move(t));
    return negated ? make(line, unary{'!', std::move(x)}) : std::move(x);
  }

  // Statements

  target assignable(bool with_namespace) {
    target out = one_target(with_namespace);
    if (!is_op(",")) return out;
    target several;
    several.parts.push_back(std::move(out));
    while (accept_op(",") && !is_op(")")) several.parts.push_back(one_target(false));
    return several;
  }
  target one_target(bool with_namespace) {
    const level guard(*this);
    if (accept_op("(")) {
      target out = assignable(false);
      expect_op(")");
      return out;
    }
    const int line = here().line;
    target out{expect_name()};
    if (with_namespace && accept_op(".")) {
      out.attribute = expect_name();
      return out;
    }
    for (const std::string_view taken : {"true", "false", "none", "True", "False", "None", "loop"})
      if (out.name == taken) refuse(line, "an assignment to ", taken);
    return out;
  }

  /// Up to one of the tags `ends`, whose name has been read then.
  body block(std::initializer_list<std::string_view> ends, std::string* end = nullptr) {
    accept_op(":");
    expect(token::block_end, "%}");
    body out = statements(ends);
    const std::string name = next().text;
    if (end) *end = name;
    return out;
  }

  body statements(std::initializer_list<std::string_view> ends) {
    const level guard(*this);
    body out;
    for (;;) {
      const int line = here().line;
      if (here().kind == token::data) {
        out.push_back({line, data{next().text}});
      } else if (here().kind == token::variable_begin) {
        next();
        auto x = tuple();
        expect(token::variable_end, "}}");
        out.push_back({line, output{std::move(x)}});
      } else if (here().kind == token::block_begin) {
        next();
        if (here().kind == token::name && std::find(ends.begin(), ends.end(), here().text) != ends.end())
          return out;
        out.push_back(tag());
        expect(token::block_end, "%}");
      } else {
        if (here().kind != token::end) unexpected();
        if (ends.size() > 0) refuse(line, "the template ends before {% ", *(ends.end() - 1), " %}");
        return out;
      }
    }
  }

  statement tag() {
    const int line = here().line;
    const std::string name = expect_name();
    if (name == "set") return {line, set()};
    if (name == "if") return {line, if_tag()};
    if (name == "for") return {line, for_tag()};
    if (name == "macro") return {line, macro_tag()};
    if (name == "with") return {line, with()};
    if (name == "filter") {
      captured out{false, {}, {}, {}};
      out.filters.push_back(filter(nullptr));
      while (accept_op("|")) out.filters.push_back(filter(nullptr));
      const inner_block names(*this);
      out.content = block({"endfilter"});
      return {line, std::move(out)};
    }
    if (name == "generation") {
      const int loops = std::exchange(loops_, 0);
      const inner_block names(*this);
      scoped out{{}, block({"endgeneration"})};
      loops_ = loops;
      return {line, std::move(out)};
    }
    if (name == "break" || name == "continue") {
      if (loops_ == 0) refuse(line, name, " outside a loop");
      return {line, jump{name == "break"}};
    }
    refuse(line, "the tag ", name.substr(0, 60), " is not supported");
  }

  decltype(statement::node) set() {
    const int line = here().line;
    target to = assignable(true);
    if (accept_op("=")) {
      auto x = tuple();
      assigns(line, to);
      return assignment{std::move(to), std::move(x)};
    }
    captured out{true, std::move(to), {}, {}};
    while (accept_op("|")) out.filters.push_back(filter(nullptr));
    {
      const inner_block names(*this);
      out.content = block({"endset"});
    }
    assigns(line, out.to);
    return out;
  }
  condition_chain if_tag() {
    condition_chain out;
    for (std::string end = "elif"; end == "elif";) {
      auto test = tuple(false);
      auto content = block({"elif", "else", "endif"}, &end);
      out.branches.emplace_back(std::move(test), std::move(content));
      if (end == "else") out.otherwise = block({"endif"});
    }
    return out;
  }
  for_loop for_tag() {
    for_loop out{assignable(false), {}, {}, {}, {}};
    if (!accept_name("in")) refuse(here().line, "in is expected, not ", shown(here()));
    out.in = tuple(false);
    {
      const inner_block names(*this);
      assigns(here().line, out.each);
      if (accept_name("if")) out.test = expr();
    }
    if (is_name("recursive")) refuse(here().line, "recursive loops are not supported");
    std::string end;
    {
      const inner_block names(*this);
      assigns(here().line, "loop");
      assigns(here().line, out.each);
      ++loops_;
      out.content = block({"else", "endfor"}, &end);
      --loops_;
    }
    const inner_block names(*this);
    if (end == "else") out.otherwise = block({"endfor"});
    return out;
  }
  macro macro_tag() {
    macro out{expect_name(), {}, {}};
    assigns(here().line, out.name);
    const inner_block names(*this);
    expect_op("(");
    while (!is_op(")")) {
      if (!out.parameters.empty()) expect_op(",");
      const int line = here().line;
      std::string name = expect_name();
      assigns(line, name);
      auto otherwise = accept_op("=") ? expr() : nullptr;
      if (!otherwise && !out.parameters.empty() && out.parameters.back().second)
        refuse(line, "a parameter without a default after one with a default");
      for (const auto& other : out.parameters)
        if (other.first == name) refuse(line, "the parameter ", name, " is named twice");
      out.parameters.emplace_back(std::move(name), std::move(otherwise));
    }
    expect_op(")");
    const int loops = std::exchange(loops_, 0);
    ++macros_;
    out.content = block({"endmacro"});
    --macros_;
    loops_ = loops;
    return out;
  }
  scoped with() {
    scoped out;
    while (here().kind != token::block_end && !is_op(":")) {
      if (!out.variables.empty()) expect_op(",");
      target to = one_target(false);
      expect_op("=");
      out.variables.emplace_back(std::move(to), expr());
    }
    const inner_block names(*this);
    for (const auto& v : out.variables) assigns(here().line, v.first);
    out.content = block({"endwith"});
    return out;
  }

  std::vector<token> tokens_;
  std::vector<block_names> blocks_{1};
  std::vector<std::pair<int, std::string>> late_;
  std::size_t at_ = 0, depth_ = 0;
  int loops_ = 0, macros_ = 0;
};

}  // namespace program::jinja
